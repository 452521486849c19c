"""Write a benchmark's files: results.csv, means.csv, results.json, results.md, heat maps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from eed_search.storage.store import write_atomic
from eed_search.transfer import heatmap
from eed_search.transfer.run import Results
from eed_search.transfer.table import flat_mean, flat_row, markdown, to_csv, verdict_lines

CSV_NAME, MARKDOWN_NAME, HTML_NAME, JSON_NAME = "results.csv", "results.md", "heatmap.html", "results.json"


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write every file; an earlier one of the same name is replaced.

    Args:
        results: What was found.
        folder: The benchmark's folder.

    Returns:
        The files, the table first.
    """
    rows = results.rows
    title = f"Benchmark {results.spec.name}"
    pictures: dict[str, bytes] = {}
    for model in dict.fromkeys(row.model for row in rows):
        if drawn := heatmap.png(heatmap.panels(rows, model), f"{title}: {model}"):
            pictures[f"heatmap-{re.sub('[^A-Za-z0-9._-]', '_', model)}.png"] = drawn
    contents = {
        MARKDOWN_NAME: markdown(results, tuple(pictures)).encode("utf-8", "backslashreplace"),
        CSV_NAME: to_csv([flat_row(row) for row in rows]).encode("utf-8", "backslashreplace"),
        "means.csv": to_csv([flat_mean(mean) for mean in results.means]).encode("utf-8", "backslashreplace"),
        HTML_NAME: heatmap.page(rows, title, verdict_lines(results)).encode("utf-8", "backslashreplace"),
        JSON_NAME: (json.dumps(plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(
            "utf-8", "backslashreplace"
        ),
        **pictures,
    }
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return [folder / name for name in contents]


def plain(results: Results) -> dict[str, Any]:
    """Write results as tables and lists, for other programs."""
    return {
        "schema": 1,
        "name": results.spec.name,
        "verdict": verdict_lines(results),
        "num_samples": results.num_samples,
        "means": [flat_mean(mean) for mean in results.means],
        "bases": [
            {
                "model": b.model,
                "seed": b.seed,
                "clean": b.clean,
                "under": b.under,
                "l2": b.distances,
                "inputs_sha256": b.inputs,
            }
            for b in results.bases
        ],
        "rows": [flat_row(row) for row in results.rows],
        "left_out": [{"what": what, "why": why} for what, why in results.left_out],
        "spec": results.spec.to_plain(),
    }
