"""A study on Ray Tune: from a space, a search and a feature file to trials that ended."""

from fmasearch.study.folder import StudyFolder, StudyPlan, load_plan, new_study_name, save_plan
from fmasearch.study.run import SearchResult, run_jobs, run_search
from fmasearch.study.runtime import Runtime, start_runtime

__all__ = [
    "Runtime",
    "SearchResult",
    "StudyFolder",
    "StudyPlan",
    "load_plan",
    "new_study_name",
    "run_jobs",
    "run_search",
    "save_plan",
    "start_runtime",
]
