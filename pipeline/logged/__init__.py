"""Trajectories that another program logged: from its files to tables of the store."""
