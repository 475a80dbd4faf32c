"""How far stored trajectories are from the policy that trains on them."""
