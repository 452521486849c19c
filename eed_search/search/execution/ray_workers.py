"""A search's work under Ray: tasks for what needs a whole machine, Ray Tune for the trials.

Tune only executes. What a trial's end means, whether a lost one is tried again, and what is written
down is decided by the driver's hooks, which run inside Tune's loop in the driver's main thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from eed_search.config.spec import Resources
from eed_search.core.errors import EedSearchError, TrialFailure
from eed_search.search.execution import ray_glue
from eed_search.search.execution.monitor import Monitor, Post, baseline_label, ended_line, trial_label
from eed_search.search.execution.placement import OneMachine, Placement
from eed_search.search.execution.ray_watch import Watch
from eed_search.search.execution.watchdog import Watchdog
from eed_search.search.execution.workers import Hooks, OnStuck, Pipeline, Poll, Work
from eed_search.search.outcome import REPORT_KEY, failure_of, out_of_time
from eed_search.system.memory import memory_kills

ERRORS_FOLDER = "errors"
_TICK_S = 0.5
_PROBE_STARTS_S = 60.0  # that a probe may take to start again, on a busy machine
_STILL_S = 30.0  # that a process may be stopped past the time budget; debuggers stop one for a moment


class RayWorkers:
    """All processors and GPUs of a Ray session.

    Args:
        machine: What the session has.
        placement: Where in it things run; on this machine by default.
        clock: Seconds by which the watchdog tells who hangs.
        watch: Knows whether the session still runs.
        scratch: Where Tune keeps what nobody needs afterwards; the run's folder by default, which all nodes see.
    """

    def __init__(
        self,
        machine: ray_glue.Machine,
        placement: Placement | None = None,
        clock: Callable[[], float] = time.monotonic,
        watch: Watch | None = None,
        scratch: Path | None = None,
    ) -> None:
        import ray

        self._machine, self.clock, self.scratch = machine, clock, scratch
        self.watch = watch or Watch()
        self.placement: Placement = placement or OneMachine(machine.num_cpus, machine.num_gpus)
        self._monitor: Any = ray.remote(Monitor).options(**self.placement.monitor()).remote()
        self._posts_ref: Any = None
        self._posts: dict[str, Post] = {}

    @property
    def num_cpus(self) -> float:
        """Processors."""
        return self._machine.num_cpus

    @property
    def num_gpus(self) -> float:
        """Graphics processors."""
        return self._machine.num_gpus

    def slots(self, resources: Resources) -> int:
        """Count the trials that fit at once."""
        return self._machine.slots(resources)

    def alone(
        self,
        pipeline: Pipeline,
        what: str,
        arguments: Mapping[str, Any],
        *,
        who: str,
        poll: Poll,
        limit_s: float | None,
        on_stuck: OnStuck,
    ) -> Any:
        """Call one function of the pipeline with a whole machine; again where its process or its machine is lost."""
        tried, kills_before = 1, memory_kills()
        with self.watch.guarded():
            while True:
                watchdog = Watchdog(limit_s)

                def look(watchdog: Watchdog = watchdog) -> None:
                    self.watch.check()
                    poll()
                    self._watch_alone(who, watchdog, on_stuck)

                try:
                    return self._alone(pipeline, what, arguments, who, look)
                except Exception as error:
                    reason, text = failure_of(error)
                    if isinstance(error, EedSearchError) or reason not in ("infrastructure", "oom"):
                        raise
                    self.watch.check_well()
                    poll()  # before it is begun again, for nobody
                    short = reason == "oom" or memory_kills() > kills_before  # it would happen again
                    if tried >= self.placement.tries or short:
                        lost = "memory ran out" if reason == "oom" else "its process was lost"
                        raise TrialFailure(
                            reason, f"{who}: {lost} ({text}); `eed-search resume` goes on from what is finished"
                        ) from error
                tried += 1

    def _alone(self, pipeline: Pipeline, what: str, arguments: Mapping[str, Any], who: str, poll: Poll) -> Any:
        import ray

        task = ray.remote(ray_glue.alone_task).options(**self.placement.whole(what))
        ref = task.remote(pipeline, what, dict(arguments), who, self._monitor, what in self.placement.takes_turns)
        try:
            while not ray.wait([ref], timeout=_TICK_S)[0]:
                poll()
        except BaseException:
            if not self.watch.lost():
                ray.cancel(ref, force=True)
            raise
        try:
            return ray.get(ref)
        except ray.exceptions.RayError as error:
            raise ray_glue.cause_of(error) from error

    def _watch_alone(self, who: str, watchdog: Watchdog, on_stuck: OnStuck) -> None:
        """Look after a task that has a machine to itself, from its first line: before it, it waits for the machine.

        Raises:
            TrialFailure: If it has made no progress for too long.
        """
        now, posts = self.clock(), self.posts()
        if who in posts and not watchdog.watches(who):
            watchdog.begin(who, now)
        for alarm in watchdog.look({who: post.count for who, post in posts.items()}, now):
            if alarm.over:
                raise TrialFailure("timeout", ended_line(alarm.seconds, posts.get(who)))
            on_stuck(who, alarm.seconds, _stopped(posts, who))

    def stages(self) -> dict[str, str]:
        """Give every worker's line, as it was about a second ago."""
        self.posts()
        return {
            who: f"{post.text} ({stopped})" if (stopped := _stopped(self._posts, who)) else post.text
            for who, post in self._posts.items()
            if who != ray_glue.PROBE
        }

    def posts(self) -> dict[str, Post]:
        """Ask the monitor, and give what it answered last; never waits."""
        import ray

        if self._posts_ref is None:
            self._posts_ref = self._monitor.posts.remote()
        if ray.wait([self._posts_ref], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):
                self._posts = ray.get(self._posts_ref)
            self._posts_ref = None
        return self._posts

    def when_stuck(self, give_up: Callable[[str], None]) -> None:
        """Have the watch call it."""
        self.watch.give_up = give_up

    def forget_posts(self) -> None:
        """Ask the monitor anew, whatever it was going to answer."""
        self._posts_ref, self._posts = None, {}

    def side_by_side(self, pipeline: Pipeline, work: Work, hooks: Hooks) -> None:
        """Run baselines and trials until the trial queue has none any more, or the hooks say stop."""
        with self.watch.guarded():
            _SideBySide(self, self._monitor, pipeline, work, hooks).run()


class _SideBySide:
    """One run of baselines and trials.

    Args:
        workers: Asked what is going on.
        monitor: Takes the workers' lines.
        pipeline: What one trial does.
        work: What is to be done.
        hooks: The driver's.
    """

    def __init__(self, workers: RayWorkers, monitor: Any, pipeline: Pipeline, work: Work, hooks: Hooks) -> None:
        self._workers, self._monitor, self._pipeline = workers, monitor, pipeline
        self._work, self._hooks = work, hooks
        self._watchdog = Watchdog(work.spec.search.trial_timeout_s)
        self._last_look = 0.0
        self._baselines: dict[Any, float] = {}
        self._train_control: Callable[[float], Any] = lambda size: None
        self._lost_controls: Counter[float] = Counter()
        self._trials: dict[int, Any] = {}  # Tune's trials by number, from their start to their end
        self._timed_out: dict[str, str] = {}
        self._out_of_time: dict[str, str] = {}
        self._still_since: dict[str, float] = {}
        self._ended = False
        self._probe_actor: Any = None
        self._probe_back_by = 0.0  # until it measures again, or this moment, nobody is held to have hung

    def run(self) -> None:
        """Start the baselines, run the trials beside them, wait for what is left."""
        import ray

        work, hooks = self._work, self._hooks
        shared = ray.put(work.setting)
        self._probe_actor = (
            ray.remote(ray_glue.ProbeActor)
            .options(**self._workers.placement.probe())
            # by value: a restart could not read it from a store that forgot it
            .remote(self._pipeline, work.setting)
        )
        probe = ray_glue.RemoteProbe(self._probe_actor, work.setting.machine, monitor=self._monitor)
        resources = work.spec.resources
        baseline = ray.remote(ray_glue.baseline_task).options(
            num_cpus=resources.cpu, num_gpus=resources.gpus, max_retries=0
        )

        def train(size: float) -> Any:
            return baseline.remote(self._pipeline, size, shared, probe, self._monitor)

        self._train_control = train
        self._baselines = {train(size): size for size in work.baselines}
        try:
            if not work.trial_queue.finished:
                self._tune(probe)
            while self._baselines and not hooks.stopping():
                self._step()
                time.sleep(_TICK_S / 5)
        finally:
            if not self._workers.watch.lost():
                for ref in self._baselines:
                    ray.cancel(ref, force=True)
                ray.kill(self._probe_actor)

    def _tune(self, probe: ray_glue.RemoteProbe) -> None:
        from ray import tune

        from eed_search.search.execution.searcher import EedSearcher
        from eed_search.search.execution.tune_callback import (
            DriverCallback,
            Errors,
            StopWhen,
            kept_in_memory,
            trial_folder,
        )

        work, spec = self._work, self._work.spec
        errors: Errors = {}
        callback = DriverCallback(
            on_start=self._trial_started,
            on_end=self._trial_ended,
            on_error=self._trial_lost,
            errors=errors,
            on_step=self._step,
        )
        function = tune.with_parameters(
            ray_glue.trainable,
            pipeline=self._pipeline,
            setting=work.setting,
            probe=probe,
            monitor=self._monitor,
            limit_s=spec.search.trial_timeout_s,
            stacks=str(work.folder / ERRORS_FOLDER),
        )
        tuner = tune.Tuner(
            tune.with_resources(function, {"cpu": spec.resources.cpu, "gpu": spec.resources.gpus}),
            tune_config=tune.TuneConfig(
                # The callback says how trials ended, errors included; the searcher is not asked to.
                search_alg=EedSearcher(work.trial_queue, settle=lambda number, result, error: None),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=trial_folder,
            ),
            run_config=tune.RunConfig(
                name=ray_glue.TUNE_FOLDER,
                storage_path=str(self._workers.scratch or work.folder),
                verbose=0,
                callbacks=[callback],
                stop=StopWhen(lambda: self._hooks.stopping() or callback.fatal is not None),
                failure_config=tune.FailureConfig(max_failures=0),  # the driver decides what is tried again
            ),
        )
        try:
            with ray_glue.started_side_by_side(), kept_in_memory(errors):
                tuner.fit()
        finally:
            ray_glue.forget_tune(work.folder)
        if callback.fatal is not None:
            raise callback.fatal

    # ------------------------------------------------------------ what Tune's loop calls

    def _trial_started(self, number: int, trial: Any) -> None:
        self._watchdog.begin(trial_label(number), self._workers.clock())
        if self._trials.get(number) is not trial:  # a trial that was paused starts more than once
            self._trials[number] = trial
            self._hooks.on_attempt(number)

    def _trial_ended(self, number: int, result: Mapping[str, Any]) -> None:
        self._over(number)
        self._hooks.on_end(number, result)

    def _trial_lost(self, number: int, error: BaseException | None) -> None:
        self._over(number)
        ray_glue.forget_empty(ray_glue.stacks_file(self._work.folder / ERRORS_FOLDER, number))
        label = trial_label(number)
        if label in self._timed_out:
            self._hooks.on_lost(number, "timeout", self._timed_out.pop(label), "")
            return
        if label in self._out_of_time:
            record = out_of_time(number, {}, self._out_of_time.pop(label))
            self._hooks.on_end(number, {REPORT_KEY: record})
            return
        self._workers.watch.check_well()  # before a trial is blamed for it
        reason, message = failure_of(error) if error else ("infrastructure", "its worker process died")
        self._hooks.on_lost(number, reason, message, f"{message}\n\n{error}\n")

    def _over(self, number: int) -> None:
        self._trials.pop(number, None)
        self._watchdog.end(trial_label(number))

    def _step(self) -> None:
        """Take in finished baselines, look for workers that are stuck, tell the driver."""
        import ray

        self._workers.watch.check()
        ready, _ = ray.wait(list(self._baselines), num_returns=1, timeout=0) if self._baselines else ([], [])
        for ref in ready:
            self._baseline_ended(self._baselines.pop(ref), ref)
        self._watch()
        self._hooks.on_step()
        if self._hooks.stopping() and not self._ended:
            self._ended = True
            self._end_trials()

    def _end_trials(self) -> None:
        """End the trials that run: Tune would wait ten seconds for each, and a result that nobody wants."""
        import ray

        for trial in self._trials.values():
            if (actor := trial.temporary_state.ray_actor) is not None:
                ray.kill(actor)

    def _baseline_ended(self, size: float, ref: Any) -> None:
        import ray

        label = baseline_label(size)
        self._watchdog.end(label)
        try:
            baseline = ray.get(ref)
        except Exception as error:
            cause = ray_glue.cause_of(error)
            if label in self._timed_out:
                cause = TrialFailure("timeout", self._timed_out.pop(label))
            elif failure_of(cause)[0] == "infrastructure":
                self._workers.watch.check_well()
            self._lost_controls[size] += 1
            if failure_of(cause)[0] == "infrastructure" and self._lost_controls[size] < self._workers.placement.tries:
                self._baselines[self._train_control(size)] = size  # its node is gone: elsewhere, from the store
                return
            baseline = cause
        self._hooks.on_baseline(size, baseline)

    # ------------------------------------------------------------ the watchdog

    def _watch(self) -> None:
        if time.monotonic() - self._last_look < _TICK_S:
            return
        self._last_look = time.monotonic()
        now = self._workers.clock()
        self._work.trial_queue.make_room(self._workers.slots(self._work.spec.resources))
        posts = self._workers.posts()
        for size in self._baselines.values():  # watched from their first line: before it they wait for a slot
            if (label := baseline_label(size)) in posts and not self._watchdog.watches(label):
                self._watchdog.begin(label, now)
        measured = posts[ray_glue.PROBE].text if ray_glue.PROBE in posts else ""
        if measured or now > self._probe_back_by:
            self._probe_back_by = 0.0
        else:
            self._watchdog.excuse(now)
        for alarm in self._watchdog.look({who: post.count for who, post in posts.items()}, now):
            if not alarm.over:
                self._hooks.on_stuck(alarm.who, alarm.seconds, _stopped(posts, alarm.who))
                continue
            # Who waits for nothing but the probe, which hangs for another, is let alone until that one is ended; then all are excused.
            waits = alarm.who != measured and self._watchdog.suspects(measured, now)
            if not waits and self._watchdog.suspects(alarm.who, now):
                self._timed_out[alarm.who] = ended_line(alarm.seconds, posts.get(alarm.who))
                self._end(alarm.who)
        if self._work.trial_queue.late:
            self._end_those_that_stand_still(posts, now)

    def _end_those_that_stand_still(self, posts: Mapping[str, Post], now: float) -> None:
        """End whoever's process has been stopped for a while when the time budget is over: nothing comes of waiting."""
        still = {who for who in posts if _stopped(posts, who) and who != ray_glue.PROBE}
        self._still_since = {who: self._still_since.get(who, now) for who in still}
        for who, since in list(self._still_since.items()):
            if now - since >= _STILL_S and who not in self._out_of_time and who not in self._timed_out:
                how = "its process stood still when search.time_budget_s was over"
                (self._out_of_time if who.startswith("trial ") else self._timed_out)[who] = how
                self._end(who)

    def _end(self, who: str) -> None:
        """End a worker's process; what waits for it then gets an error."""
        import ray

        self._watchdog.end(who)
        for number, trial in self._trials.items():
            actor = trial.temporary_state.ray_actor
            if trial_label(number) == who and actor is not None:
                ray.kill(actor)
        for ref, size in self._baselines.items():
            if baseline_label(size) == who:
                ray.cancel(ref, force=True)
        self._free_probe(who)

    def _free_probe(self, ended: str) -> None:
        """Start the probe again if what it measures is for nobody any more; it would keep all others waiting."""
        import ray

        at = self._workers.posts().get(ray_glue.PROBE)
        others = {trial_label(number) for number in self._trials} | {
            baseline_label(s) for s in self._baselines.values()
        }
        if at is None or at.text in others - {ended}:
            return
        ray.kill(self._probe_actor, no_restart=False)  # whoever waits for it is measured by the next one
        with suppress(ray.exceptions.RayError):
            ray.get(self._monitor.post.remote(ray_glue.PROBE, ""), timeout=_PROBE_STARTS_S)
        self._workers.forget_posts()  # the next ones are of after it
        now = self._workers.clock()
        self._probe_back_by = now + _PROBE_STARTS_S
        self._watchdog.excuse(now)


def _stopped(posts: Mapping[str, Post], who: str) -> str:
    """Say whether a worker's process stands still, or the latency probe's while it measures for that worker."""
    probe = posts.get(ray_glue.PROBE)
    return (posts[who].stopped if who in posts else "") or (
        f"the latency probe: {probe.stopped}" if probe and probe.text == who and probe.stopped else ""
    )
