"""Pure tensor code: what a policy and a score are, trajectories, plans and their sampler."""
