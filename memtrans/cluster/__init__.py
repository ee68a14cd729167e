"""Runs as jobs of a Slurm cluster, by submitit.

Rooms: `slurm` (its commands), `settings` (from the config group `launcher` to sbatch's options), `job` (what a job
does), `worker` (a run's process with GPUs), `submissions` (what was submitted, kept in runs/slurm), `submit`, and
`states` (how far each run is). No torch is imported here, but in `worker`.
"""
