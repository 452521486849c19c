"""The stages of a benchmark: base, crafted inputs, pruned network, answers, latency.

Each asks the store first, so a benchmark that was killed goes on where it was, and two that share a
base share its inputs. The number behind a stage's name is its code's version.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from eed_search.compression.channels import channel_groups
from eed_search.compression.member import Member, fresh, from_arrays, reestimate_norms, to_arrays
from eed_search.config import plugins
from eed_search.config.spec import Model
from eed_search.core.pace import in_counts
from eed_search.core.seeds import seed_of
from eed_search.data.splits import Splits
from eed_search.deployment.onnx_export import to_onnx
from eed_search.evaluation.latency import LatencyProbe
from eed_search.models import build_for, count_macs, place, signature
from eed_search.models.registry import check_images
from eed_search.pipeline.latency import machine_name
from eed_search.pipeline.stage import Stage
from eed_search.runs.records import Interval
from eed_search.storage.store import Artifact, Store, Stored
from eed_search.training import LabelRecovery, train
from eed_search.training.batches import augment_key
from eed_search.training.checkpoints import Checkpoint
from eed_search.transfer.craft import craft, inputs_hash, lengths, predict
from eed_search.transfer.grid import Choice
from eed_search.transfer.results import Timed
from eed_search.transfer.schemes import Evidence, prune
from eed_search.transfer.spec import BenchmarkSpec, Case, PlainTraining

Report = Callable[[str], None]


@dataclass(frozen=True)
class Network:
    """A base or a pruned network.

    Attributes:
        model: On the CPU, in evaluation mode.
        key: Names it in the store.
        labels: What it answers to the clean test images.
        num_parameters: Weights that are not masked out, biases included.
        macs: Multiply-accumulates of one image, masked weights included.
        left_dense: Layers that its scheme could not handle.
    """

    model: nn.Module = field(repr=False)
    key: str
    labels: Int[np.ndarray, " samples"]
    num_parameters: int
    macs: int
    left_dense: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crafted:
    """Inputs crafted on a base.

    Attributes:
        images: float32 in [0, 1], on the CPU.
        key: Names them in the store.
        sha256: Hash of their bytes.
        right: Which of them the base still answers rightly.
        l2: Median distance of those that it does not; none where there is none.
    """

    images: Tensor = field(repr=False)
    key: str
    sha256: str
    right: Bool[np.ndarray, " samples"]
    l2: float | None


@dataclass(frozen=True)
class Replayed:
    """What one attack at one budget does to a pruned network.

    Attributes:
        static: Which base-crafted inputs it answers rightly.
        adaptive: Which inputs crafted on itself it answers rightly.
        l2: Median distance of those of its own that it answers wrongly; none where there is none.
    """

    static: Bool[np.ndarray, " samples"]
    adaptive: Bool[np.ndarray, " samples"]
    l2: float | None


class Bench:
    """One seed of a benchmark: its data, device and store.

    Args:
        spec: The file.
        seed: Seed for splits, weights, order and attacks.
        data: The seed's splits.
        store: Where finished stages lie.
        device: Where networks are trained and attacked.
        report: Told which stage is being computed, and how far it is.
    """

    def __init__(
        self, spec: BenchmarkSpec, seed: int, data: Splits, store: Store, device: torch.device, report: Report
    ) -> None:
        self.spec, self.seed, self.data, self.store, self.device, self.report = spec, seed, data, store, device, report
        self.test = data.test.floats()

    # ------------------------------------------------------------ networks

    def untrained(self, model: Model, seed: int = 0) -> nn.Module:
        """Build a base network with fresh weights."""
        return build_for(model, self.data, seed)

    def base(self, model: Model) -> Network:
        """Train a base network, or read it.

        Raises:
            Diverged: If the training diverges.
        """
        settings = self._training(self.spec.base) | {"model": model.model_dump()}
        if self.spec.plugins:  # the model may be the user's own
            settings["code"] = [plugins.digest(entry) for entry in self.spec.plugins]

        def trains(seed: int, unfinished: Checkpoint) -> Artifact:
            network = self.untrained(model, seed)
            self._train(network, self.spec.base, seed, name="base", unfinished=unfinished)
            return self._to_artifact(Member(network.cpu()))

        return Stage("benchmark_base", settings, lambda stored: self._network(model, stored), trains=trains).made_in(
            self.store
        )

    def pruned(self, model: Model, choice: Choice, base: Network) -> Network:
        """Prune a base network and fine-tune it where asked, or read it.

        Batch-norm statistics are measured anew after the cut: with the base's own a pruned network answers
        at chance.

        Raises:
            ModelError: If the scheme can remove nothing.
            Diverged: If the fine-tuning diverges.
        """
        spec, data = self.spec, self.data
        settings: dict[str, Any] = {"base": base.key, "data": data.key, "seed": self.seed} | asdict(choice)
        settings |= {"block": spec.block}
        if choice.scheme == "taylor":
            settings["samples"] = spec.score_samples
        if choice.finetuned:
            settings["finetune"] = self._training(spec.finetune)

        def trains(seed: int, unfinished: Checkpoint) -> Artifact:
            few = data.train.subset(torch.arange(min(spec.score_samples, len(data.train))))
            evidence = Evidence(few.images, few.labels, self.seed)
            found = prune(base.model, data.image_shape, choice.scheme, choice.ratio, spec.block, evidence)
            if found.changed:
                reestimate_norms(place(found.model, self.device), data.train)
            if choice.finetuned:
                self._train(found.model, spec.finetune, seed, found.masks, name="fine-tuning", unfinished=unfinished)
            return self._to_artifact(Member(found.model.cpu(), found.masks), found.left_dense)

        stage = Stage("benchmark_network", settings, lambda stored: self._network(model, stored), trains=trains)
        return stage.made_in(self.store)

    def refuse(self, model: Model) -> None:
        """Find out before any training whether a base network suits the images, and whether it can be pruned.

        Raises:
            ModelError: If it does not, or nothing of it can be removed.
        """
        network = self.untrained(model)
        check_images(network, model.name, self.data.image_shape, self.data.num_classes)
        if "unstructured_magnitude" not in self.spec.schemes:  # masks can do without removable channels
            channel_groups(network, self.data.image_shape)

    # ------------------------------------------------------------ inputs and answers

    def crafted(self, base: Network, case: Case) -> Crafted:
        """Attack a base once, or read the inputs: float32, never rounded to grey levels."""
        settings = self._attack(case) | {"base": base.key}

        def compute(seed: int) -> Artifact:
            self.report(f"crafts {case.label}")
            images = self._craft(base.model, case, f"crafts {case.label}")
            right = self._labels(base.model, images) == self.test.labels.numpy()
            arrays = {"images": images.numpy(), "right": right}
            return Artifact(arrays, {"sha256": inputs_hash(images.numpy()), "l2": self._median(images, right)})

        def decode(stored: Stored) -> Crafted:
            arrays, meta = stored.artifact.tensors, stored.artifact.meta
            return Crafted(torch.from_numpy(arrays["images"]), stored.key, meta["sha256"], arrays["right"], meta["l2"])

        return Stage("benchmark_inputs", settings, decode, compute).made_in(self.store)

    def replayed(self, network: Network, crafted: Crafted, case: Case) -> Replayed:
        """Replay base-crafted inputs on a pruned network, and attack it itself, or read the answers."""
        settings = self._attack(case) | {"network": network.key, "inputs": crafted.key}

        def compute(seed: int) -> Artifact:
            truth = self.test.labels.numpy()
            static = self._labels(network.model, crafted.images) == truth
            own = self._craft(network.model, case, f"attacks the pruned network by {case.label}")
            adaptive = self._labels(network.model, own) == truth
            return Artifact({"static": static, "adaptive": adaptive}, {"l2": self._median(own, adaptive)})

        def decode(stored: Stored) -> Replayed:
            arrays = stored.artifact.tensors
            return Replayed(arrays["static"], arrays["adaptive"], stored.artifact.meta["l2"])

        return Stage("benchmark_replay", settings, decode, compute).made_in(self.store)

    # ------------------------------------------------------------ latency

    def timed(self, network: Network, base: Network) -> Timed | None:
        """Measure a network's latency against its base's, once for each architecture, or read it.

        Noisy measurements are kept too, and marked: a benchmark that is run again gives the same table.

        Returns:
            The latency; none where the file wants none.

        Raises:
            ModelError: If the network cannot be exported.
        """
        import onnxruntime

        protocol = self.spec.latency
        if protocol is None:
            return None
        shape = self.data.image_shape
        shared = {
            "reference": signature(base.model, shape),
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "protocol": protocol.model_dump(exclude={"final_rounds", "final_calls", "final_processes"}),
            "machine": machine_name(),
        }

        def probe() -> LatencyProbe:
            half = fresh(base.model, shape, 0.5, self.spec.block, 0)
            return LatencyProbe(to_onnx(base.model, shape), to_onnx(half, shape), shape, protocol)

        def measure(seed: int) -> Artifact:
            self.report("latency")
            estimate = probe().measure(to_onnx(network.model, shape))
            return Artifact(meta={"ratio": asdict(estimate.ratio), "noisy": estimate.noisy})

        # The base's wall time is taken once, so that latencies of one base compare as their ratios do.
        wall = Stage(
            "benchmark_reference",
            shared,
            lambda stored: float(stored.artifact.meta["value"]),
            lambda seed: Artifact(meta=asdict(probe().reference_ms())),
        )
        settings = shared | {"architecture": signature(network.model, shape)}
        dense_ms = wall.made_in(self.store)
        meta = Stage("benchmark_latency", settings, lambda stored: stored.artifact.meta, measure).made_in(self.store)
        ratio = Interval(**meta["ratio"])
        milliseconds = Interval(dense_ms * ratio.value, dense_ms * ratio.low, dense_ms * ratio.high)
        return Timed(milliseconds, Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low), meta["noisy"])

    # ------------------------------------------------------------ shared by the stages

    def _training(self, recipe: PlainTraining) -> dict[str, Any]:
        return {
            "data": self.data.key,
            "augment": augment_key(self.spec.data.augment),
            "recipe": recipe.model_dump(),
            "eps": self.spec.train_eps,
            "seed": self.seed,
        }

    def _attack(self, case: Case) -> dict[str, Any]:
        return case.settings() | {
            "data": self.data.key,
            "num_test": len(self.data.test),
            "batch_size": self.spec.batch_size,
            "seed": self.seed,
        }

    def _train(
        self,
        network: nn.Module,
        recipe: PlainTraining,
        seed: int,
        masks: dict[str, Tensor] | None = None,
        *,
        name: str,
        unfinished: Checkpoint,
    ) -> None:
        train(
            network,
            self.data.train,
            recipe,
            LabelRecovery(self.spec.train_eps, recipe.attack),
            seed=seed,
            augment=self.spec.data.augment,
            masks=masks,
            device=self.device,
            report=lambda text: self.report(f"{name}: {text}"),
            checkpoint=unfinished,
            eps=self.spec.train_eps,
        )

    def _craft(self, network: nn.Module, case: Case, title: str) -> Tensor:
        # One seed for a case, whatever the network: a copy of the base meets the base's own inputs.
        return craft(
            copy.deepcopy(network),
            self.test,
            case,
            num_classes=self.data.num_classes,
            seed=seed_of(str(self.seed), case.label),
            batch_size=self.spec.batch_size,
            device=self.device,
            tell=in_counts(self.report, title, "passes"),
        )

    def _labels(self, network: nn.Module, images: Tensor) -> Int[np.ndarray, " samples"]:
        model = copy.deepcopy(network)
        return np.asarray(predict(model, images, batch_size=self.spec.batch_size, device=self.device).numpy())

    def _median(self, images: Tensor, right: Bool[np.ndarray, " samples"]) -> float | None:
        """Median distance of the inputs that break what was right without an attack."""
        moved = lengths(images, self.test.images).numpy()
        broken = moved[~right & (moved > 0)]
        return float(np.median(broken)) if broken.size else None

    def _to_artifact(self, member: Member, left_dense: tuple[str, ...] = ()) -> Artifact:
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in to_arrays(member).items()}
        labels = self._labels(member.model, self.test.images)
        return Artifact(arrays | {"labels": labels}, {"left_dense": list(left_dense)})

    def _network(self, model: Model, stored: Stored) -> Network:
        artifact = stored.artifact
        tensors = {name: torch.from_numpy(array) for name, array in artifact.tensors.items() if name != "labels"}
        member = from_arrays(self.untrained(model), tensors)
        masked = sum(int((~mask).sum()) for mask in member.masks.values())
        return Network(
            member.model,
            stored.key,
            artifact.tensors["labels"],
            sum(p.numel() for p in member.model.parameters()) - masked,
            count_macs(member.model, self.data.image_shape),
            tuple(artifact.meta.get("left_dense", ())),
        )
