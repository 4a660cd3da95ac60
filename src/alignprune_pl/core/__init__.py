"""Pure tensor code: what a policy and a score are, trajectories, plans and the sampler that serves them. torch alone."""
