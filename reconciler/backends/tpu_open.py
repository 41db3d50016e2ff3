"""Which control a TPU host gets: google-cloud-tpu in this process, or the gcloud program."""

from __future__ import annotations

import shutil

from reconciler.backends.tpu_client import TpuClientControl, default_project, installed
from reconciler.backends.tpu_control import Control
from reconciler.backends.tpu_gcloud import GcloudControl
from reconciler.core.errors import AccessRefused
from reconciler.core.inventory import TpuHost


def open_control(host: TpuHost) -> Control:
    """The control for a host, by its `control`: client, gcloud, or auto: the library where it is installed and has credentials,
    else gcloud where that is installed. With an `endpoint` of their own no credentials are looked for.

    Raises AccessRefused when `auto` finds neither; the hint is the command to run.
    """
    project = host.project or ""
    if host.control == "client":
        return TpuClientControl(project, endpoint=host.endpoint)
    program = shutil.which("gcloud") is not None
    if host.control == "gcloud":
        return GcloudControl(project, endpoint=host.endpoint)
    if not installed():
        if program:
            return GcloudControl(project, endpoint=host.endpoint)
        raise AccessRefused(
            "There is nothing here that speaks to Google Cloud.",
            hint="Run `pip install 'reconciler[tpu]'`, or install the Google Cloud CLI (gcloud).",
        )
    if host.endpoint or not program:
        return TpuClientControl(project, endpoint=host.endpoint)
    try:
        default_project()
    except AccessRefused:
        return GcloudControl(project)
    return TpuClientControl(project)
