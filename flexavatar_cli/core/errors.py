"""The error family: every foreseeable failure is one of these, printed as one line by `cli/app.py`."""


class FlexAvatarError(Exception):
    """A failure the user can act on; `exit_code` is the process exit status."""

    exit_code = 1


class UsageError(FlexAvatarError):
    """Options that contradict each other or cannot be understood."""

    exit_code = 2


class InputError(FlexAvatarError):
    """A file that is missing, damaged or does not show what is needed."""

    exit_code = 3


class WeightsError(FlexAvatarError):
    """Weights or a head model that are missing, damaged or of another kind."""

    exit_code = 4


class BackendError(FlexAvatarError):
    """A device or back end that was asked for and is not on this machine."""

    exit_code = 5
