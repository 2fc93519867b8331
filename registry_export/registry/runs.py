"""The run that an export's metrics are logged on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from registry_export.entities import ModelVersionRef
from registry_export.errors import RegistryExportError
from registry_export.registry.calls import is_refused, without_printed_links
from registry_export.registry.connection import Connection

_EXPERIMENT = "registry-export"
_NO_TAG = "registry_export.doctor?" * 20
"""A name that no tag may have: it is too long, and MLflow allows no question mark."""
_JOB_TAG = "registry_export.job"


class ExportRuns(Connection):
    """Starts, fills and ends export runs."""

    def create_export_run(self, ref: ModelVersionRef, trigger: str) -> str:
        """Start the run that an export's metrics are logged on.

        It lives in the experiment of the version's source, else in one named `registry-export`, and
        takes the logged model as its input, so that MLflow shows the registered model beside it. Runs of earlier
        attempts of the same job, whose worker was killed before it could end them or say that they count, become
        `KILLED`.

        Returns:
            The run's id.
        """
        place = self.location(ref)
        with self._writes(f"start an export run for {ref}"):
            experiment = self._active_experiment(place.experiment_id)
            tags = {
                "registry_export.model_name": ref.name,
                "registry_export.model_version": ref.version,
                "registry_export.trigger": trigger,
            }
            if self._claim is not None:
                tags[_JOB_TAG] = self._claim.job
                if self._claim.again:
                    self._end_runs(experiment, self._claim.job)
            run = self._client.create_run(experiment, run_name=f"export {ref.name} v{ref.version}", tags=tags)
            run_id = str(run.info.run_id)
            self._end_if_late(run_id)
            if place.logged_model_id is not None:
                from mlflow.entities import LoggedModelInput

                self._client.log_inputs(run_id, models=[LoggedModelInput(place.logged_model_id)])
        return run_id

    def _end_if_late(self, run_id: str) -> None:
        """End a run that was made while the process stood still and the job became another worker's."""
        try:
            if self._claim is not None:
                self._claim.check()
        except RegistryExportError:
            with without_printed_links():
                self._client.set_terminated(run_id, status="KILLED")
            raise

    def end_export_runs(self, ref: ModelVersionRef, job: str) -> None:
        """End whatever runs the attempts of a job have left that is given up: none of them counts."""
        place = self.location(ref)
        with self._calls(f"end the export runs of {ref}"):
            self._end_runs(self._active_experiment(place.experiment_id), job)

    def _end_runs(self, experiment: str, job: str) -> None:
        found = self._client.search_runs([experiment], filter_string=f"tags.`{_JOB_TAG}` = '{job}'")
        with without_printed_links():
            for run in found:
                if run.info.status in ("RUNNING", "FINISHED"):
                    self._client.set_terminated(run.info.run_id, status="KILLED")

    def _active_experiment(self, experiment_id: str | None) -> str:
        if experiment_id is not None:
            experiment = self._client.get_experiment(experiment_id)
            if experiment.lifecycle_stage == "active":
                return str(experiment_id)
        found = self._client.get_experiment_by_name(_EXPERIMENT)
        return str(found.experiment_id) if found is not None else str(self._client.create_experiment(_EXPERIMENT))

    def log_metrics(self, run_id: str, ref: ModelVersionRef, metrics: Mapping[str, float]) -> None:
        """Log metrics on a run and, where the version is a logged model, on that too.

        Values that are not finite are left out: SQL databases store other numbers in their place.
        """
        from mlflow.entities import Metric

        place = self.location(ref)
        now = int(time.time() * 1000)
        model = {} if place.logged_model_id is None else {"model_id": place.logged_model_id}
        batch = [Metric(key, float(value), now, 0, **model) for key, value in metrics.items() if math.isfinite(value)]
        if batch:
            with self._writes(f"log metrics of {ref}"):
                self._client.log_batch(run_id, metrics=batch)

    def try_out(self) -> bool:
        """Do with a run of our own what an export does with its run, and delete it again.

        Returns:
            Whether it could be deleted: exports do without that right.

        Raises:
            RegistryError: The server, or the store behind it, does not let us.
        """
        with self._calls("make a run and write to it"), without_printed_links():
            run = self._client.create_run(self._active_experiment(None), run_name="registry-export doctor")
            run_id = str(run.info.run_id)
            try:
                self._client.log_metric(run_id, "doctor", 1.0)
                self._client.log_text(run_id, "ok", "doctor.txt")
            finally:
                self._client.set_terminated(run_id, status="FINISHED")
                is_deleted = self._deleted(run_id)
        return is_deleted

    def _deleted(self, run_id: str) -> bool:
        try:
            self._client.delete_run(run_id)
        except Exception as error:
            if not is_refused(error):
                raise
            return False
        return True

    def try_writing(self, ref: ModelVersionRef) -> None:
        """Ask for tags that cannot be, to see whether others could be written; nothing is.

        MLflow looks at the caller's rights first, and only then at what was asked for.

        Raises:
            RegistryError: The caller may not write to the version, or not to the experiment that its runs are in.
        """
        experiment = self.location(ref).experiment_id
        with self._calls(f"write to {ref}"):
            _expect_refusal(lambda: self._versions.set_model_version_tag(ref.name, ref.version, _NO_TAG, ""))
        if experiment is not None:
            with self._calls(f"write to the experiment {experiment} of {ref}"):
                _expect_refusal(lambda: self._client.set_experiment_tag(experiment, _NO_TAG, ""))

    def finish_run(self, run_id: str, status: str) -> None:
        """End a run with MLflow's `FINISHED`, `FAILED` or `KILLED`."""
        with self._writes(f"finish run {run_id}"), without_printed_links():
            self._client.set_terminated(run_id, status=status)


def _expect_refusal(write: Callable[[], object]) -> None:
    try:
        write()
    except Exception as error:
        if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
            raise
