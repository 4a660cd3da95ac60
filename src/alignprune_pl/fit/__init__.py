"""All that knows Lightning: the loop, losses out of a training step, samples passed forward, a run."""
