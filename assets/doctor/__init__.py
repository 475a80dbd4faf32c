"""`tbrm doctor`: what of this machine would stop a run, before it is started. Nothing here imports torch or Dagster."""
