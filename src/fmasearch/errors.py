"""The exception tree. Every error a person can cause derives from `UserError` and ends with exit code 2."""


class FmasearchError(Exception):
    """Base of every error that fmasearch raises on purpose."""

    exit_code = 1


class UserError(FmasearchError):
    """Bad input: the message names the file, the key, what was expected, what came and how to mend it."""

    exit_code = 2


class ConfigError(UserError):
    """A training or search configuration that cannot be used."""


class SpaceError(UserError):
    """A search space that cannot be sampled."""


class DataError(UserError):
    """A feature file that is missing, damaged, of another format, or lacks what the study asks for."""


class TrackError(FmasearchError):
    """One track that cannot be used. The message is the reason, as the manifest shows it; the others go on."""


class ModelError(UserError):
    """A saved model that cannot be read, or does not fit the data it is asked to judge."""


class StudyError(UserError):
    """A study that cannot be started, resumed or finished as asked."""


class DivergedError(FmasearchError):
    """The loss became NaN or infinite; the trial is failed, the study goes on."""
