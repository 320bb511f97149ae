"""A study on Ray Tune: from a space, a search and a feature file to trials that ended."""

from fmasearch.study.folder import StudyFolder, StudyPlan, load_plan, new_study_name, save_plan
from fmasearch.study.nodes import cluster_notes
from fmasearch.study.remote import run_elsewhere
from fmasearch.study.run import SearchResult, run_jobs, run_search
from fmasearch.study.runtime import Runtime, start_runtime, study_runtime

__all__ = [
    "Runtime",
    "SearchResult",
    "StudyFolder",
    "StudyPlan",
    "cluster_notes",
    "load_plan",
    "new_study_name",
    "run_elsewhere",
    "run_jobs",
    "run_search",
    "save_plan",
    "start_runtime",
    "study_runtime",
]
