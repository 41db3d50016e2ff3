"""This simulates the Cloud TPU API: no TPU is here, only something that answers as the service is documented and reported to.

Real clients talk to it: gcloud over HTTP, google-cloud-tpu over gRPC or HTTP; real ssh reaches its workers. `Emulator` serves it
from a test, `python -m tests.emulators.tpu` from a shell. See docs/tpu-emulator.md.
"""

from tests.emulators.tpu.emulator import GET_GCLOUD, GET_LIBRARY, Emulator, have_library

__all__ = ["GET_GCLOUD", "GET_LIBRARY", "Emulator", "have_library"]
