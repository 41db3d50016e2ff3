"""What Google's API meant by an error: a denial, an error of ours to raise, or an answer that was lost. Pure.

Both controls bring the status as a word of google.rpc.Code and the API's own text. Quota and capacity share one status
(RESOURCE_EXHAUSTED): a create that is refused at once met a quota, an operation that fails later met an empty zone, and the
text overrules both. Texts are from public reports and recorded answers (tests/records/gcloud); what is in no table is doubt,
because doubt taken for a refusal costs a second VM.
"""

from __future__ import annotations

import re

from reconciler.core.errors import AccessRefused, OutcomeUnknown, ReconcilerError, Rejected, Unreachable
from reconciler.core.tpu import Denied, TpuNode, TpuRequest

# google.rpc.Code, as operations carry it.
CODES = {
    0: "OK",
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}

SAID_NO = (AccessRefused, Rejected)
"""The errors that say that the API answered, and said no."""

LOGIN_CLIENT = "gcloud auth application-default login"
LOGIN_GCLOUD = "gcloud auth login"

_CAPACITY = re.compile(
    r"no more capacity|not enough (?:capacity|resources)|insufficient capacity|stock-?out|out of capacity", re.I
)
_RESERVATION = re.compile(r"reserv", re.I)
_RATE = re.compile(r"per (?:minute|second|100 seconds|hour|day)|requests? per|rate ?limit|too many requests", re.I)
_QUOTA = re.compile(r"quota", re.I)
_NO_QUOTA = re.compile(r"limit\W{0,3}\s*0(?:\.0+)?(?![\d.]*\d)", re.I)
_TAKEN = re.compile(r"\bstate:? PREEMPTED\b|\bpreempted\b", re.I)
_DISABLED = re.compile(r"has not been used in project|it is disabled|SERVICE_DISABLED")
_LOCATION = re.compile(r"permission denied on '?locations?/|location .*(?:not found|may not exist)", re.I)
_QUOTA_PROJECT = re.compile(r"requires a quota project|quota project .*not (?:set|found)|USER_PROJECT_DENIED", re.I)
_BILLING = re.compile(r"billing", re.I)
# Nothing was sent: the connection was never made. Words of gRPC, and of what gcloud's library says.
_NOT_SENT = re.compile(
    r"failed to connect to all addresses|name resolution|DNS resolution failed|Connection refused|NewConnectionError|"
    r"NameResolutionError|No route to host|Network is unreachable|Getting metadata from plugin failed",
    re.I,
)
_STALE = re.compile(
    r"reauth|refresh token|RefreshError|invalid_grant|invalid_rapt|invalid_client|Token has been expired", re.I
)

_LENGTH_MAX = 600
_LOST = frozenset({"DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "CANCELLED", "DATA_LOSS", "UNAVAILABLE"})


def at_create(status: str, message: str) -> Denied | None:
    """The refusal in the answer to a create; None when the answer is none, so that `error` says what it is."""
    text = _cut(message)
    match status:
        case "RESOURCE_EXHAUSTED":
            return _exhausted(text, later=False)
        case "PERMISSION_DENIED":
            return Denied("permission", _with_hint(text), final=True)
        case "INVALID_ARGUMENT" | "NOT_FOUND" | "OUT_OF_RANGE" | "UNIMPLEMENTED":
            return Denied("invalid", text, final=True)
        case "FAILED_PRECONDITION":
            return Denied("reservation" if _RESERVATION.search(text) else "invalid", text)
        case "ABORTED":
            return Denied("not-now", text)
    return None


def by_operation(code: int, message: str) -> Denied:
    """Why a create's operation failed. Nothing that the operation says is final but a wrong wish or a missing permission: the
    node was asked for, and is not there, or is there and LOST."""
    text, status = _cut(message), CODES.get(code, "UNKNOWN")
    match status:
        case "RESOURCE_EXHAUSTED":
            return _exhausted(text, later=True)
        case "FAILED_PRECONDITION" if _RESERVATION.search(text):
            return Denied("reservation", text)
        case "INVALID_ARGUMENT":
            # Taken back while it was still being made.
            return Denied("capacity", text) if _TAKEN.search(text) else Denied("invalid", text, final=True)
        case "NOT_FOUND":
            return Denied("invalid", text, final=True)
        case "PERMISSION_DENIED" | "UNAUTHENTICATED":
            return Denied("permission", _with_hint(text), final=True)
    if _CAPACITY.search(text):
        return Denied("capacity", text)
    return Denied("not-now", text or f"the operation failed with {status} and said nothing")


def of_request(message: str) -> Denied:
    """Why a queued resource failed, from its error's text alone."""
    text = _cut(message)
    if _NO_QUOTA.search(text) or (_QUOTA.search(text) and not _CAPACITY.search(text)):
        return _exhausted(text, later=False)
    if _RESERVATION.search(text):
        return Denied("reservation", text)
    return Denied("capacity", text or "the request failed and said nothing")


def _exhausted(text: str, *, later: bool) -> Denied:
    if _CAPACITY.search(text):
        return Denied("capacity", text)
    if _RATE.search(text):
        return Denied("not-now", text)
    if _QUOTA.search(text) or not later:
        zero = bool(_NO_QUOTA.search(text))
        return Denied("no-quota" if zero else "quota", text, final=zero)
    return Denied("capacity", text)


def error(status: str, message: str, doing: str, *, lost: bool, login: str = LOGIN_CLIENT) -> ReconcilerError:
    """What to raise for an error of the API. `doing` names the call (`list TPU VMs in us-central2-b`); `lost`: the call has an
    effect, so that an answer that did not come leaves it open; `login` is the command that renews the credentials."""
    text = _cut(message)
    said = f"Could not {doing}: {text or status}"
    if status == "UNAUTHENTICATED" or _stale(status, text):
        return AccessRefused(said, hint=f"Run `{login}` and try again.")
    if status == "PERMISSION_DENIED":
        return AccessRefused(said, hint=hint_for_permission(text))
    if status in _LOST:
        if lost and not _NOT_SENT.search(text):
            return OutcomeUnknown(f"No answer to the request to {doing}: {text or status}")
        return Unreachable(said)
    if status in ("ABORTED", "RESOURCE_EXHAUSTED"):
        return Unreachable(
            said, hint="Google is busy with something else there, or was asked too often. Nothing was done."
        )
    return Rejected(said)


IN_THE_WAY = frozenset({"ABORTED", "FAILED_PRECONDITION", "INVALID_ARGUMENT"})
"""What a delete is answered while another operation is at work, perhaps a delete."""


def going(thing: TpuNode | TpuRequest | None) -> bool:
    """Is it gone, or being deleted already?"""
    return thing is None or thing.word == "DELETING"


def hint_for_permission(text: str) -> str:
    """The next step after PERMISSION_DENIED."""
    if _DISABLED.search(text):
        return "Run `gcloud services enable tpu.googleapis.com` once for the project."
    if _QUOTA_PROJECT.search(text):
        return "Run `gcloud auth application-default set-quota-project PROJECT`."
    if _BILLING.search(text):
        return "Give the project a billing account: `gcloud billing projects link PROJECT --billing-account=ACCOUNT`."
    if _LOCATION.search(text):
        return "Correct the host's zone in the inventory: `gcloud compute tpus locations list` shows yours."
    return (
        "Ask for the role: `gcloud projects add-iam-policy-binding PROJECT --member=user:YOU --role=roles/tpu.admin`. "
        "Another account or project: `gcloud auth list`, `gcloud config set project PROJECT`."
    )


def no_project() -> AccessRefused:
    """There is no project to ask for."""
    return AccessRefused(
        "No Google Cloud project is set.",
        hint="Run `gcloud config set project PROJECT`, or write `project: PROJECT` into the host's entry of the inventory.",
    )


def no_credentials(why: str, login: str = LOGIN_CLIENT) -> AccessRefused:
    """There is nobody to ask as."""
    return AccessRefused(f"No credentials for Google Cloud: {_cut(why)}", hint=f"Run `{login}` and try again.")


def _stale(status: str, text: str) -> bool:
    return status in ("UNAVAILABLE", "UNKNOWN", "PERMISSION_DENIED") and bool(_STALE.search(text))


def _with_hint(text: str) -> str:
    return f"{text}\n  {hint_for_permission(text)}"


def _cut(message: str) -> str:
    """One line, not too long; the API's details may be pages."""
    text = " ".join(message.split())
    return text if len(text) <= _LENGTH_MAX else f"{text[: _LENGTH_MAX - 4]} ..."
