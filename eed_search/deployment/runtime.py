"""Run a deployed, gated team with numpy and onnxruntime alone; this one file is all that a bundle needs.

    python runtime.py BUNDLE PHOTO.jpg [MORE.png FOLDER …] [--json] [--threads N]
    python runtime.py BUNDLE IMAGES.npy

or, from Python, `GatedClassifier("BUNDLE").predict_files(["photo.jpg"])` and `.predict(images)`. Files need Pillow,
arrays do not. Members are asked in their order until
the gate is sure enough; in a batch only the undecided images go on to the next member. Nothing here
imports another module of eed-search, so the file can be copied anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    import onnxruntime as ort
except (ImportError, MemoryError) as error:  # onnxruntime says std::bad_alloc as an ImportError
    if __name__ != "__main__":
        raise
    sys.exit(f"runtime.py needs numpy and onnxruntime, and memory to load them ({str(error).strip() or 'it ran out'})")

FORMAT = "eed-search bundle"
FORMAT_VERSION = 3  # 2: the gate's rule may be `margin`; 3: says how a photograph becomes an input
_OLDER_VERSIONS = {1: ("threshold", "map"), 2: ("threshold", "map", "margin")}  # read too, with the rules each knew
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
INPUT, OUTPUT = "images", "probabilities"
RULES = ("threshold", "map", "margin")

ABOVE_ALL_LEADS = 100.0  # in logits: a threshold of rule `margin` that runs every member
_MIN_PROBABILITY = 1e-12  # inside logarithms, so that a class of probability 0 gives a large but finite KL
_LEAST_PROBABILITY = 1e-35  # the same behind rule `margin`: far above where float32 underflows, 80 logits below 1
_ONE_AS_BITS = 0x3F800000
_FLOAT32, _BITS = np.dtype(np.float32), np.dtype(np.uint32)
_ONE_RUN = np.ones(1, np.int64)  # members run by a team of one
_ONE_RUN.flags.writeable = False
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of Pillow, with 8 bits a channel at most
_IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
_MAX_BATCH = 256  # images in one call of a member: larger batches gain nothing and their activations fill the memory

# What a bundle may hold, looked at before it is read: a stranger's must not fill the memory or lead elsewhere.
MOST_FILES, MOST_BYTES = 256, 1 << 32
_MOST_MANIFEST, _MOST_DIGEST = 1 << 22, 1 << 10  # bytes
_MOST_DEPTH = 50  # lists and tables within each other
_MOST_PIXELS = 1 << 26  # channels · height · width
_MOST_ENTRIES = 250_000  # of an ONNX file
_MOST_SHOWN = 120  # characters of a given value in a message
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_ONNX = {  # the messages of an ONNX file in which a tensor may lie, by field: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
    "model": {7: "graph", 20: "program", 25: "program"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "program", 10: "tensor", 11: "program", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external", 14: "external"},
}


class RuntimeFault(Exception):
    """The root of what this file raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class BundleFault(RuntimeFault):
    """The bundle is missing, altered, or of a version that this runtime cannot read."""

    exit_code = 8


class InputFault(RuntimeFault, ValueError):
    """The images are of the wrong type, shape or range."""

    exit_code = 4


@dataclass(frozen=True)
class GateSettings:
    """When the gate stops asking further members.

    With ŷ_t the mean of the first t members' probabilities and C classes, the stop probability is
    q_1 = conf(ŷ_1)^sharpness and q_t = conf(ŷ_t)^sharpness · exp(−KL(ŷ_t ‖ ŷ_{t−1})/tau), where
    conf(p) = (max p − 1/C)/(1 − 1/C). The last member has q = 1.

    Rule `margin` takes the mean logits of the first t members instead. Members give probabilities; the
    logarithms of one member's are its logits less one number, the same for every class, so means of both have the
    same best class and the same distances between classes.

    Attributes:
        rule: `threshold` stops at the first t with q_t ≥ threshold and answers with ŷ_t. `map`
            answers with the t that maximises q_t·Π_{i<t}(1−q_i) and stops as soon as no later
            member can beat the best so far. `margin` stops at the first t whose best class leads the
            second by at least the threshold, and answers with it.
        threshold: Stop probability that is enough; above 1 runs every member. `map` ignores it. `margin`: lead
            in logits that is enough; above 81 runs every member.
        sharpness: Exponent of the confidence, above 0; `margin` ignores it.
        tau: Scale of the KL divergence, above 0; `margin` ignores it.
    """

    rule: str
    threshold: float
    sharpness: float = 1.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BundleFault(f"gate.rule: {self.rule!r} is not one of {', '.join(RULES)}")
        for name in ("threshold", "sharpness", "tau"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1e15 or (value == 0 and name != "threshold"):  # NaN fails too
                least = "at least 0" if name == "threshold" else "above 0"
                raise BundleFault(f"gate.{name}: {_shown(value)} is not a finite number {least} (1e15 at most)")

    def never_stopping(self) -> GateSettings:
        """Give a gate that costs what this one does at each step and runs every member."""
        if self.rule == "margin":
            return GateSettings("margin", ABOVE_ALL_LEADS)
        return GateSettings("threshold", 2.0, self.sharpness, self.tau)


class Prediction(NamedTuple):
    """What the team answers.

    Attributes:
        labels: int64 [images], the class with the highest probability.
        num_members_run: int64 [images], how many members were asked (rule `map` may answer with
            the mean of fewer).
        probabilities: float64 [images, classes], the mean that decided; behind rule `margin` the softmax of the
            mean logits.
    """

    labels: np.ndarray
    num_members_run: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What the team answers for one file.

    Attributes:
        file: As it was given.
        name: Of the class with the highest probability.
        probability: Its probability.
        num_members_run: How many members were asked.
        probabilities: Of every class, by name.
    """

    file: str
    name: str
    probability: float
    num_members_run: int
    probabilities: dict[str, float]


class GateWalk:
    """The gate's way through one image's members: the scalar twin of the batch code, for batch 1.

    Args:
        gate: The settings.
        num_members: Members in the team; the last one always stops.

    """

    __slots__ = ("_answer", "_best", "_gate", "_left", "_logs", "_num_members", "_run", "_total")

    def __init__(self, gate: GateSettings, num_members: int) -> None:
        self._gate = gate
        self._num_members = num_members
        self._run = 0
        self._best, self._left = -1.0, 1.0
        self._total: list[float] = []
        self._answer: list[float] = []
        self._logs: list[float] | None = None

    @property
    def answer(self) -> np.ndarray:
        """After a `step` that gave True: float64 [classes], the probabilities that decide."""
        given = self._answer
        if self._gate.rule == "margin":
            most = max(given)
            raised = [math.exp(one - most) for one in given]
            whole = sum(raised)
            given = [one / whole for one in raised]
        return np.array(given)

    def step(self, probabilities: np.ndarray) -> bool:
        """Take the next member's answer.

        Args:
            probabilities: float [classes], sums to 1.

        Returns:
            True if no further member is to be asked.
        """
        # Python's own floats: between two members numpy's code is cold, and each of its calls takes 5 to 10 µs.
        self._run += 1
        run, gate = self._run, self._gate
        if gate.rule == "margin":
            return self._step_by_margin(probabilities)
        before = self._total
        given = probabilities.tolist()
        total = self._total = given if run == 1 else [a + b for a, b in zip(before, given, strict=True)]
        if run == self._num_members:
            # q = 1: `threshold` answers here; for `map` every earlier value lies below what is left.
            self._answer = [one / run for one in total]
            return True
        chance = 1.0 / len(total)
        confidence = (max(total) / run - chance) / (1.0 - chance)
        # rounding may leave [0, 1] by a hair, and a negative number has no real power
        stop = min(max(confidence, 0.0), 1.0) ** gate.sharpness
        if run > 1:
            previous = self._logs or [math.log(max(one, _MIN_PROBABILITY)) for one in before]  # of the first member
            mean = [one / run for one in total]
            logs = self._logs = [math.log(max(one, _MIN_PROBABILITY)) for one in mean]
            divergence = sum([m * (now - then) for m, now, then in zip(mean, logs, previous, strict=True)])
            stop *= math.exp(-max(divergence, 0.0) / gate.tau)
        if gate.rule == "threshold":
            if stop >= gate.threshold:
                self._answer = [one / run for one in total]
                return True
            return False
        value = stop * self._left
        if value > self._best:
            self._best, self._answer = value, [one / run for one in total]
        self._left *= 1.0 - stop
        return self._best >= self._left

    def _step_by_margin(self, probabilities: np.ndarray) -> bool:
        logs = [math.log(max(one, _LEAST_PROBABILITY)) for one in probabilities.tolist()]
        total = self._total = logs if self._run == 1 else [a + b for a, b in zip(self._total, logs, strict=True)]
        if self._run < self._num_members:
            first, second = sorted(total)[:-3:-1]
            if not (first - second) / self._run >= self._gate.threshold:
                return False
        self._answer = [one / self._run for one in total]
        return True


def new_session(model: bytes | str, threads: int = 1) -> ort.InferenceSession:
    """Load one ONNX member on the CPU.

    Args:
        model: The file's bytes, or its path.
        threads: Threads inside one operator, at least 1.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong comes as an exception, with our words
    options.add_session_config_entry("session.load_model_format", "ONNX")  # no other form is looked through
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class GatedClassifier:
    """A deployed team: ONNX members in gate order, and the gate.

    Args:
        bundle: The bundle's folder. Its manifest's version and the SHA-256 of every file are checked
            before anything is run.
        threads: Threads of onnxruntime, at least 1. One is best for small networks at batch 1.

    Attributes:
        gate: When it stops.
        num_members: Members in the team.
        image_shape: (channels, height, width).
        num_classes: Classes.
        class_names: A name for each class.
        sessions: The loaded members, in gate order.

    Raises:
        BundleFault: If the bundle is missing, altered or of another version.
    """

    def __init__(self, bundle: str | Path, threads: int = 1) -> None:
        self._open(Path(bundle), *read_bundle(Path(bundle)), threads)

    def _open(self, bundle: Path, manifest: dict[str, Any], files: dict[str, bytes], threads: int) -> None:
        gate = GateSettings(**manifest["gate"])
        self._set_up([_session(name, files[name], threads) for name in manifest["members"]], gate)
        self.class_names = tuple(manifest["class_names"])
        if manifest["format_version"] == FORMAT_VERSION:
            _refuse_other_rule(bundle / MANIFEST, manifest["preprocessing"], self.image_shape)
        declared = (*manifest["image_shape"], manifest["num_classes"], len(self.class_names))
        if declared != (*self.image_shape, self.num_classes, self.num_classes):
            raise BundleFault(
                f"{bundle}: {MANIFEST} says image_shape {_shown(manifest['image_shape'])},"
                f" {_shown(manifest['num_classes'])} classes, {len(self.class_names)} class names; the members take"
                f" {list(self.image_shape)} and give {self.num_classes}; export the bundle again"
            )

    @classmethod
    def from_read(
        cls, bundle: Path, manifest: dict[str, Any], files: dict[str, bytes], threads: int = 1
    ) -> GatedClassifier:
        """Build a team from what `read_bundle` gave."""
        team = cls.__new__(cls)
        team._open(bundle, manifest, files, threads)
        return team

    @classmethod
    def from_onnx(cls, members: Sequence[bytes], gate: GateSettings, threads: int = 1) -> GatedClassifier:
        """Build a team from its members' ONNX bytes, in gate order."""
        return cls.from_sessions(
            [_session(f"member {i}", model, threads) for i, model in enumerate(members, start=1)], gate
        )

    @classmethod
    def from_sessions(cls, sessions: Sequence[Any], gate: GateSettings) -> GatedClassifier:
        """Build a team from loaded sessions, in gate order; one session may serve several teams."""
        team = cls.__new__(cls)
        team._set_up(list(sessions), gate)
        return team

    def _set_up(self, sessions: list[Any], gate: GateSettings) -> None:
        if not sessions:
            raise BundleFault("the team has no member; at least one is needed")
        forms = []
        for i, session in enumerate(sessions, start=1):
            inputs = {entry.name: entry.shape for entry in session.get_inputs()}
            outputs = {entry.name: entry.shape for entry in session.get_outputs()}
            sizes = [*inputs.get(INPUT, [])[1:], *outputs.get(OUTPUT, [])[1:]]
            whole = len(sizes) == 4 and all(isinstance(size, int) and size > 0 for size in sizes)
            if len(inputs) != 1 or not whole or sizes[3] < 2 or math.prod(sizes[:3]) > _MOST_PIXELS:
                raise BundleFault(
                    f"member {i}: takes {_shown(inputs)} and gives {_shown(outputs)}; need {INPUT} [batch, channels, height,"
                    f" width] and {OUTPUT} [batch, classes] with at least 2 classes and at most {_MOST_PIXELS:,} values an image"
                )
            forms.append(sizes)
            if sizes != forms[0]:
                raise BundleFault(f"member {i}: its shapes {sizes} differ from member 1's {forms[0]}")
        self.gate = gate
        self.image_shape: tuple[int, int, int] = (forms[0][0], forms[0][1], forms[0][2])
        self.num_classes = int(forms[0][3])
        self.num_members = len(sessions)
        self.class_names = tuple(str(i) for i in range(self.num_classes))
        self.sessions = sessions
        self._outputs = [OUTPUT]
        self._one_image = (1, *self.image_shape)
        # Without the checks of onnxruntime's Python part, where it lets us: ours were made when the sessions were opened.
        self._runs = [getattr(session, "_sess", session).run for session in sessions]
        alone = len(sessions) == 1 and gate.rule != "margin"
        self._predict_one = self._predict_alone if alone else self._predict_gated

    def predict(self, images: np.ndarray) -> Prediction:
        """Classify images; each is asked no more members than the gate needs.

        Args:
            images: float32 [images, channels, height, width] or one image [channels, height,
                width], values in [0, 1]; normalisation is inside the members. Any number of images.

        Returns:
            One answer for each image, also for a single one.

        Raises:
            InputFault: If type, shape or range are wrong.
        """
        if type(images) is np.ndarray and images.shape == self._one_image and images.dtype is _FLOAT32:
            # The way of one image after the other, with as few calls as can be: between two runs all code is cold.
            bits = images.view(_BITS)
            if bits.item(bits.argmax()) <= _ONE_AS_BITS:
                try:
                    return self._predict_one(images)
                except RuntimeFault:
                    raise
                except Exception as error:
                    raise _explained(error, 1) from error
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            given = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise InputFault(f"images: {given} was given; need a float32 array in [0, 1] (divide 8-bit values by 255)")
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise InputFault(
                f"images: shape {images.shape} was given; need [images, {', '.join(map(str, self.image_shape))}]"
                f" or one image {list(self.image_shape)}"
            )
        # As whole numbers the bits of 0.0..1.0 lie in 0..the bits of 1.0, and those of negative numbers and
        # NaN above: one pass in place of two. Only -0.0 needs the slow way.
        if images.size:
            bits = images.view(
                _BITS
            )  # argmax: the one pass over an image whose code does not come out of the cache cold
            wide = bits.item(bits.argmax()) > _ONE_AS_BITS
        if images.size and wide and not (images.min() >= 0 and images.max() <= 1):
            raise InputFault(
                f"images: values from {images.min():g} to {images.max():g} were given; need [0, 1] without NaN"
            )
        try:
            return self._predict_one(images) if len(images) == 1 else self._predict_many(images)
        except RuntimeFault:
            raise
        except Exception as error:  # onnxruntime's own exceptions have no common public root
            raise _explained(error, len(images)) from error

    def predict_files(self, files: Sequence[str | Path]) -> list[Answer]:
        """Classify PNG and JPEG files, by the names of the classes.

        Each is turned as its EXIF says, scaled (bilinear) until its shorter side fits, and its middle is cut out, as
        the training images of a folder are. Needs Pillow.

        Args:
            files: Their paths.

        Returns:
            One answer for each, in their order.

        Raises:
            InputFault: If one cannot be read; names it.
        """
        found = []
        for start in range(0, len(files), _MAX_BATCH):
            some = files[start : start + _MAX_BATCH]
            answer = self.predict(np.stack([read_image(file, self.image_shape) for file in some]))
            for file, label, run, given in zip(
                some, answer.labels, answer.num_members_run, answer.probabilities, strict=True
            ):
                by_name = dict(zip(self.class_names, given.tolist(), strict=True))
                found.append(Answer(str(file), self.class_names[label], float(given[label]), int(run), by_name))
        return found

    def _predict_alone(self, image: np.ndarray) -> Prediction:
        """Ask the only member: nothing to combine, nobody else to ask."""
        (probabilities,) = self._runs[0](self._outputs, {INPUT: image}, None)
        label = probabilities.argmax(1)
        _refuse_nan(1, probabilities.item(label.item()))
        return Prediction(label, _ONE_RUN, probabilities.astype(np.float64))

    def _predict_gated(self, image: np.ndarray) -> Prediction:
        feed = {INPUT: image}
        walk = GateWalk(self.gate, self.num_members)
        run = 0
        for member in self._runs:
            run += 1
            if walk.step(member(self._outputs, feed, None)[0][0]):
                break
        answer = walk.answer
        label = answer.argmax()
        _refuse_nan(run, answer.item(label))
        return Prediction(np.array([label]), np.array([run]), answer[None])

    def _predict_many(self, images: np.ndarray) -> Prediction:
        parts = [self._predict_batch(images[i : i + _MAX_BATCH]) for i in range(0, len(images), _MAX_BATCH)]
        if not parts:
            return Prediction(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, self.num_classes)))
        return Prediction(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _predict_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        num = len(images)
        answer = np.zeros((num, self.num_classes))
        members_run = np.zeros(num, np.int64)
        undecided = np.arange(num)
        stops = _MarginStops(self.gate) if self.gate.rule == "margin" else _ProbabilityStops(self.gate)
        for t, session in enumerate(self.sessions, start=1):
            probabilities = session.run(self._outputs, {INPUT: images[undecided]})[0]
            _refuse_nan(t, probabilities.sum())
            mean = stops.take(t, probabilities)
            if t == self.num_members:
                answer[undecided], members_run[undecided] = mean, t
                break
            done, better = stops.judge(t, mean)
            answer[undecided[better]] = mean[better]
            members_run[undecided[done]] = t
            undecided = undecided[~done]
            stops.keep(~done)
            if undecided.size == 0:
                break
        if self.gate.rule == "margin":
            answer = _softmax(answer)
        return answer.argmax(axis=1), members_run, answer


class _ProbabilityStops:
    """Rules `threshold` and `map` on a batch; its rows belong to the undecided images only and shrink with them."""

    def __init__(self, gate: GateSettings) -> None:
        self._gate = gate
        self._total: np.ndarray | float = 0.0
        self._log = self._log_before = np.zeros(0)
        self._best: np.ndarray | float = -1.0
        self._left: np.ndarray | float = 1.0

    def take(self, t: int, probabilities: np.ndarray) -> np.ndarray:
        """Take member t's answers and give the means that would decide now."""
        self._total = self._total + probabilities.astype(np.float64)
        mean: np.ndarray = self._total / t
        return mean

    def judge(self, t: int, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Say which images are decided, and which would be answered by this mean."""
        gate = self._gate
        chance = 1.0 / mean.shape[1]
        stop = np.clip((mean.max(axis=1) - chance) / (1.0 - chance), 0.0, 1.0) ** gate.sharpness
        self._log = np.log(np.maximum(mean, _MIN_PROBABILITY))
        if t > 1:
            divergence = np.maximum((mean * (self._log - self._log_before)).sum(axis=1), 0.0)
            stop = stop * np.exp(-divergence / gate.tau)
        if gate.rule == "threshold":
            done: np.ndarray = stop >= gate.threshold
            return done, done
        value = stop * self._left
        better: np.ndarray = value > self._best
        self._best = np.where(better, value, self._best)
        self._left = self._left * (1.0 - stop)
        return self._best >= self._left, better

    def keep(self, on: np.ndarray) -> None:
        """Go on with some of the images."""
        assert isinstance(self._total, np.ndarray)
        self._total, self._log_before = self._total[on], self._log[on]
        if isinstance(self._best, np.ndarray) and isinstance(self._left, np.ndarray):
            self._best, self._left = self._best[on], self._left[on]


class _MarginStops:
    """Rule `margin` on a batch, likewise; its means are of log probabilities."""

    def __init__(self, gate: GateSettings) -> None:
        self._threshold = gate.threshold
        self._total: np.ndarray | float = 0.0

    def take(self, t: int, probabilities: np.ndarray) -> np.ndarray:
        """Take member t's answers and give the means that would decide now."""
        self._total = self._total + np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY))
        mean: np.ndarray = self._total / t
        return mean

    def judge(self, t: int, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Say which images are decided, and which would be answered by this mean."""
        second, best = np.partition(mean, -2, axis=1)[:, -2:].T
        done: np.ndarray = best - second >= self._threshold
        return done, done

    def keep(self, on: np.ndarray) -> None:
        """Go on with some of the images."""
        assert isinstance(self._total, np.ndarray)
        self._total = self._total[on]


def _softmax(logs: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logs - logs.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def _refuse_nan(member: int, value: float) -> None:
    if value != value:  # only NaN differs from itself; a NaN here would pass every comparison unnoticed
        raise RuntimeFault(f"member {member}: gave NaN probabilities; its weights are broken, export the bundle again")


def _session(name: str, model: bytes, threads: int) -> ort.InferenceSession:
    try:
        return new_session(model, threads)
    except Exception as error:  # onnxruntime's own exceptions have no common public root
        if _is_memory(error):
            raise RuntimeFault(_no_memory(name)) from error
        raise BundleFault(f"{name}: onnxruntime {ort.__version__} cannot load it ({_brief(error)})") from error


def _explained(error: Exception, num_images: int) -> RuntimeFault:
    """Say what went wrong while images were classified."""
    if _is_memory(error):
        return RuntimeFault(_no_memory(f"{num_images} images"))
    return RuntimeFault(f"the members cannot be run on these images ({_brief(error)})")


def _is_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(word in text for word in ("bad_alloc", "allocat", "out of memory"))


def _no_memory(what: str) -> str:
    return (
        f"{what}: memory ran out; give fewer images at once, or allow this process more memory (ulimit -v, container)"
    )


# ---------------------------------------------------------------- files


def preprocessing(image_shape: Sequence[int]) -> dict[str, Any]:
    """Say how a photograph becomes an input, as the manifest does.

    Args:
        image_shape: Channels, height, width.
    """
    channels, height, width = image_shape
    return {
        "colour": "grey" if channels == 1 else "RGB",
        "orientation": "as EXIF says",
        "resize": "until the shorter side fits",
        "filter": "bilinear",
        "crop": "the middle",
        "height": height,
        "width": width,
        "range": [0, 1],
        "layout": "channels, height, width",
    }


def _refuse_other_rule(path: Path, given: dict[str, Any], image_shape: Sequence[int]) -> None:
    known = preprocessing(image_shape)
    if wrong := [key for key in known if given.get(key) != known[key]]:
        raise BundleFault(
            f"{path}: preprocessing.{wrong[0]} is {_shown(given.get(wrong[0]))}; this runtime knows {known[wrong[0]]!r}; export"
            " the bundle again"
        )


def read_image(file: str | Path, image_shape: Sequence[int]) -> np.ndarray:
    """Read a PNG or JPEG file as the networks take it.

    Args:
        file: Its path.
        image_shape: Channels, height, width.

    Returns:
        float32 [channels, height, width] in [0, 1].

    Raises:
        InputFault: If it cannot be read, or Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise InputFault(f"{file}: needs Pillow to be read{why}: pip install pillow; arrays (.npy) do not") from error
    channels, height, width = image_shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as opened:
                if opened.mode not in _MODES:
                    raise InputFault(f"{file}: has pixels of kind {opened.mode}; save it with 8 bits a channel")
                turned = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
                fitted = ImageOps.fit(turned, (width, height), Image.Resampling.BILINEAR)
    except InputFault:
        raise
    except OSError as error:
        why = error.strerror or "corrupt, or no PNG or JPEG"
        raise InputFault(f"{file}: cannot be read ({why}); give PNG or JPEG files") from error
    except Exception as error:  # Pillow raises many kinds for broken files
        if _is_memory(error):
            raise RuntimeFault(_no_memory(str(file))) from error
        raise InputFault(f"{file}: cannot be read ({error}); give PNG or JPEG files") from error
    pixels = np.asarray(fitted, np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255)


# ---------------------------------------------------------------- the bundle's files


def read_bundle(folder: Path, most: int = MOST_BYTES) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a bundle's files and check each against the manifest, and the manifest against its own digest.

    Only regular files that lie in the folder itself are read, and of members only those that hold all of their
    weights and no loops, branches or functions.

    Args:
        folder: The bundle.
        most: Bytes that its files may have in all.

    Returns:
        The manifest, and every file that it lists, by name.

    Raises:
        BundleFault: If a file is missing, altered, too large or no regular file, a member is no such network, or the
            manifest cannot be read.
    """
    manifest = read_manifest(folder)
    paths = {name: folder / name for name in manifest["sha256"]}
    try:
        if (size := sum(size_of(path, most) for path in paths.values())) > most:  # before the first is read
            raise BundleFault(f"{folder}: its files have {size:,} bytes, and at most {most:,} are read here")
        files = {name: read_file(path, most) for name, path in paths.items()}
    except OSError as error:
        raise BundleFault(
            f"{error.filename or folder}: is missing or cannot be read ({error.strerror}); copy or export the bundle again"
        ) from error
    for name, digest in manifest["sha256"].items():
        _refuse_altered(paths[name], files[name], str(digest), "the manifest")
    for name in manifest["members"]:
        _refuse_foreign_onnx(paths[name], files[name])
    return manifest, files


def size_of(path: Path, most: int) -> int:
    """Give a regular file's size in bytes.

    Raises:
        BundleFault: If it is larger than `most` bytes, or a link, folder, pipe, socket or device.
        OSError: If it is not there.
    """
    return _checked_size(path, os.lstat(path), most)


def read_file(path: Path, most: int) -> bytes:
    """Read a regular file of at most so many bytes; links are not followed, and nothing is waited for.

    Raises:
        BundleFault: As `size_of`.
        OSError: If it cannot be read.
    """
    size_of(path, most)
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"))
    with open(os.open(path, flags), "rb") as file:
        size = _checked_size(path, os.fstat(file.fileno()), most)  # again: another may lie there by now
        try:
            return file.read(size)
        except MemoryError as error:
            raise RuntimeFault(_no_memory(str(path))) from error


def _checked_size(path: Path, found: os.stat_result, most: int) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise BundleFault(f"{path}: is no regular file; a bundle holds no links, folders, pipes, sockets or devices")
    if found.st_size > most:
        raise BundleFault(f"{path}: has {found.st_size:,} bytes, and at most {most:,} are read here")
    return found.st_size


def _refuse_foreign_onnx(path: Path, model: bytes) -> None:
    """Refuse an ONNX file that reads weights from other files, or holds loops, branches or functions; nothing is loaded."""
    todo, left = [("model", 0, len(model))], _MOST_ENTRIES
    try:
        while todo:
            message, at, end = todo.pop()
            while at < end:
                key, at = _number(model, at)
                form, below, left = key & 7, _ONNX[message].get(key >> 3, ""), left - 1
                value, at = _number(model, at) if form in (0, 2) else (1, at)
                size = {0: 0, 1: 8, 2: value, 5: 4}[form]
                if left < 0 or key >> 32 or at + size > end:
                    raise ValueError
                if below == "program" or (below == "external" and value):
                    own = below == "program"
                    what = "holds loops, branches or functions" if own else "reads weights from another file"
                    raise BundleFault(f"{path}: {what}; a bundle's members hold their weights and run straight through")
                if form == 2 and below in _ONNX:
                    todo.append((below, at, at + size))
                at += size
    except (ValueError, LookupError) as error:
        raise BundleFault(f"{path}: is no ONNX network; export the bundle again") from error


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a number as protobuf writes it, 7 bits a byte; gives it and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError


def _refuse_altered(path: Path, data: bytes, digest: str, by: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise BundleFault(
            f"{path}: was altered (SHA-256 {found[:12]}…, {by} says {digest[:12]}…); copy or export the bundle again"
        )


def _refuse_names(path: Path, members: list[Any], digests: dict[str, Any]) -> None:
    if len(digests) > MOST_FILES:
        raise BundleFault(f"{path}: lists {len(digests):,} files, where at most {MOST_FILES} are read")
    for name in (*members, *digests):
        # a name with a folder in it could point outside the bundle
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name not in digests:
            raise BundleFault(
                f"{path}: {_shown(name)} is not a plain file name with a SHA-256; export the bundle again"
            )
    if len(set(members)) < len(members) or not all(name.endswith(".onnx") for name in members):
        raise BundleFault(f"{path}: members {_shown(members)} are not different .onnx files; export the bundle again")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `manifest.json`, check it against `manifest.sha256` and for completeness; no other file is read.

    Raises:
        BundleFault: If one of the two is missing, the manifest was altered, is not JSON, of another
            version, or lacks an entry.
    """
    path = folder / MANIFEST
    try:
        data = read_file(path, _MOST_MANIFEST)
    except OSError as error:
        raise BundleFault(f"{folder}: is no bundle ({MANIFEST}: {error.strerror}); name an exported folder") from error
    try:
        line = read_file(folder / MANIFEST_DIGEST, _MOST_DIGEST).decode("utf-8", "replace")
    except OSError as error:
        raise BundleFault(
            f"{folder / MANIFEST_DIGEST}: is missing or cannot be read ({error.strerror}); copy or export the bundle again"
        ) from error
    _refuse_altered(path, data, line.partition(" ")[0], MANIFEST_DIGEST)
    manifest = read_json(path, data)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleFault(f'{path}: is not the manifest of an {FORMAT} (no "format": "{FORMAT}")')
    version = manifest.get("format_version")
    versions = {**_OLDER_VERSIONS, FORMAT_VERSION: RULES}
    rules = versions.get(version, ()) if isinstance(version, int) else ()
    if not rules:
        raise BundleFault(
            f"{path}: has format_version {_shown(version)}; this runtime reads {', '.join(map(str, versions))}; take the"
            " runtime.py of the eed-search that made it"
        )
    kinds: dict[str, type] = {
        "members": list,
        "gate": dict,
        "image_shape": list,
        "num_classes": int,
        "class_names": list,
        "sha256": dict,
    }
    if version == FORMAT_VERSION:
        kinds["preprocessing"] = dict
    for key, kind in kinds.items():
        if not isinstance(manifest.get(key), kind):
            raise BundleFault(f"{path}: {key} is missing or no {kind.__name__}; copy or export the bundle again")
    _refuse_names(path, manifest["members"], manifest["sha256"])
    if not all(isinstance(name, str) for name in manifest["class_names"]):
        raise BundleFault(f"{path}: class_names holds something else than text; export the bundle again")
    if set(manifest["gate"]) != {"rule", "threshold", "sharpness", "tau"}:
        held = _shown(sorted(manifest["gate"]))
        raise BundleFault(f"{path}: gate holds {held}; need rule, sharpness, tau, threshold")
    if manifest["gate"]["rule"] not in rules:
        raise BundleFault(
            f"{path}: gate.rule: {_shown(manifest['gate']['rule'])} is not one of {', '.join(rules)}, which format_version"
            f" {version} knows; export the bundle again"
        )
    return manifest


def read_json(path: Path, data: bytes) -> Any:
    """Parse one of a bundle's JSON files.

    Args:
        path: For messages.
        data: Its bytes.

    Raises:
        BundleFault: If it is not JSON, or nested too deeply for whoever looks through it.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleFault(f"{path}: is not JSON ({_brief(error)}); copy or export the bundle again") from error
    level = [found]
    for _ in range(_MOST_DEPTH):
        tables = [one for one in level if isinstance(one, dict | list)]
        level = [inner for one in tables for inner in (one.values() if isinstance(one, dict) else one)]
    if level:
        raise BundleFault(f"{path}: is nested more than {_MOST_DEPTH} deep; copy or export the bundle again")
    return found


# ---------------------------------------------------------------- the command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify image files, or the images of a .npy file, and print one line for each."""
    parser = argparse.ArgumentParser(prog="runtime.py", description="Classify images with a deployed, gated team.")
    parser.add_argument("bundle", help="the bundle's folder", metavar="BUNDLE")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="PNG or JPEG files, folders of them (needs Pillow); or one .npy file, float32 [n, C, H, W] or [C, H, W] in [0, 1]",
    )
    parser.add_argument("--top", type=int, default=3, help="how many classes to name for each file (3)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with every class")
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime (1)")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # printing a name never fails
    try:
        for name in ("threads", "top"):
            if getattr(options, name) < 1:
                raise InputFault(f"--{name}: {getattr(options, name)} is below 1")
        team = GatedClassifier(options.bundle, threads=options.threads)
        arrays = [file for file in options.files if file.lower().endswith((".npy", ".npz"))]
        if arrays:
            if len(options.files) > 1:
                raise InputFault(f"{arrays[0]}: give one .npy file alone, or image files")
            _classify_array(team, arrays[0])
            return 0
        return _classify_files(team, options.files, options.top, options.json)
    except RuntimeFault as fault:
        print(plain(str(fault)), file=sys.stderr)
        return fault.exit_code


def _classify_array(team: GatedClassifier, file: str) -> None:
    try:
        images = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        if _is_memory(error):
            raise RuntimeFault(_no_memory(file)) from error
        why = getattr(error, "strerror", None) or "no array of numbers, as numpy.save writes one"
        raise InputFault(f"{file}: cannot be read ({why})") from error
    if not isinstance(images, np.ndarray):
        images.close()
        raise InputFault(f"{file}: is an archive of arrays (.npz); save the images alone by numpy.save")
    answer = team.predict(images)
    print("image\tlabel\tmembers_run\tprobability")
    for i, (label, run) in enumerate(zip(answer.labels, answer.num_members_run, strict=True)):
        print(f"{i}\t{plain(team.class_names[label])}\t{run}\t{answer.probabilities[i, label]:.4f}")


def _classify_files(team: GatedClassifier, given: Sequence[str], top: int, as_json: bool) -> int:
    """Print an answer for each file; one that cannot be read is said, and the others are answered all the same."""
    code = 0
    files = [file for one in given for file in _below(one)]
    if not files:
        raise InputFault(f"{', '.join(given)}: no PNG or JPEG files there")
    for file in files:
        try:
            (answer,) = team.predict_files([file])
        except InputFault as fault:
            print(plain(str(fault)), file=sys.stderr)
            code = fault.exit_code
            continue
        if as_json:
            said = {**vars(answer), "num_members": team.num_members}
            print(json.dumps(said), flush=True)
            continue
        others = sorted(answer.probabilities.items(), key=lambda item: -item[1])[1:top]
        rest = ", ".join(f"{plain(name)} {100 * share:.1f} %" for name, share in others)
        run = f"{answer.num_members_run} of {team.num_members} members" if team.num_members > 1 else ""
        more = "; ".join(part for part in (rest, run) if part)
        print(
            f"{plain(file)}  {plain(answer.name)}  {100 * answer.probability:.1f} %{f'  ({more})' if more else ''}",
            flush=True,
        )
    return code


def _below(given: str) -> list[str]:
    path = Path(given)
    if not path.is_dir():
        return [given]
    return [str(file) for file in sorted(path.iterdir()) if file.suffix.lower() in _IMAGES and file.name[0] != "."]


def plain(text: str) -> str:
    """Write control characters out, so that no name can steer a terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _shown(value: object) -> str:
    """Show a given value, the beginning of a long one."""
    return _cut(repr(value))


def _brief(error: BaseException) -> str:
    return _cut(str(error).strip().partition("\n")[0] or type(error).__name__)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


if __name__ == "__main__":
    sys.exit(main())
