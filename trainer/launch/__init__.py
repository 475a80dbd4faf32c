"""The processes of a training job, on one machine or several."""
