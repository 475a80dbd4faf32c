"""The paper's claims as runnable studies."""
