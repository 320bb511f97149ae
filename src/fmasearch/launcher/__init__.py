"""A cluster from outside: working folders, files and commands that travel over Ray's cluster launcher's own ssh."""

from fmasearch.launcher.fetching import Fetched, StudyOnHead, fetch_study, list_studies
from fmasearch.launcher.head import Head, open_cluster
from fmasearch.launcher.jobs import (
    GOES_ON,
    HEAD_PREFIX,
    HeadState,
    Job,
    Upload,
    follow_command,
    head_path,
    new_submission_id,
    probe,
    send_folder,
    send_upload,
    start_job,
    study_in,
)
from fmasearch.launcher.working_folder import WorkingFolder, collect

__all__ = [
    "GOES_ON",
    "HEAD_PREFIX",
    "Fetched",
    "Head",
    "HeadState",
    "Job",
    "StudyOnHead",
    "Upload",
    "WorkingFolder",
    "collect",
    "fetch_study",
    "follow_command",
    "head_path",
    "list_studies",
    "new_submission_id",
    "open_cluster",
    "probe",
    "send_folder",
    "send_upload",
    "start_job",
    "study_in",
]
