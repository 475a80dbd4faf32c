"""Confinement of a process by what Linux offers to everybody: it can compute, and touch nothing.

Layers, each of which is taken where the machine has it: namespaces (network, processes, IPC, mounts), Landlock (files,
ports, signals), seccomp (system calls), no new privileges and no capabilities. What is missing is reported, not
silently passed over: `tbrm doctor` and the manifest of a labelled generation say what was in force.
"""

from pipeline.sandbox.confinement import (
    Protections,
    confine_child,
    confine_worker,
    protections_here,
)

__all__ = ["Protections", "confine_child", "confine_worker", "protections_here"]
