from tests.app.tpu.desks import bundle, desk, tpu

__all__ = ["bundle", "desk", "tpu"]
