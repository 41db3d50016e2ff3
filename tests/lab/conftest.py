from tests.lab.slurm import fresh_slurm, slurm

__all__ = ["fresh_slurm", "slurm"]
