"""The nine tasks of RWKVQuant's tables by lm-evaluation-harness, offline, and our adapter against the harness's own Hugging Face model.

    python benchmarks/zero_shot.py DATA [NAME=ARGUMENTS ...] [--hf FOLDER --tokenizer TOKENIZER.json] [--limit N] --json OUT.json

DATA holds the files that the tasks in lab/lm_eval_tasks name. ARGUMENTS are the adapter's, such as file=model.pth,engine=native. With
--hf, the model in FOLDER is run by the harness through transformers (float32, token 0 first), and every NAME that begins with "same" is
compared with it, request by request. Needs the extra `eval`, and for --hf transformers and accelerate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from roofline import conditions

from rwkvquant.evaluation.lm_eval import RwkvQuantLM

TASKS = Path(__file__).parents[1] / "lab" / "lm_eval_tasks"
END_OF_TEXT = "<|eod|>"  # token 0 of the small models


def evaluated(model: Any, data: str, limit: int | None) -> tuple[dict[str, Any], dict[tuple[str, int, int], tuple[float, bool]]]:
    """-> the accuracy of each task, and (log-likelihood, greedy) by task, document and choice."""
    manager = TaskManager(include_path=str(TASKS), metadata={"data_dir": data})
    result = lm_eval.simple_evaluate(
        model=model, tasks=["local_nine"], task_manager=manager, limit=limit, log_samples=True, bootstrap_iters=0
    )
    scores, answers = {}, {}
    for task, samples in sorted(result["samples"].items()):
        found = result["results"][task]
        choices = [len(sample["filtered_resps"]) for sample in samples]
        likely = sum(1 / count for count in choices) / len(choices)
        scores[task.removeprefix("local_")] = {
            "acc": found["acc,none"],
            "chance": likely if max(choices) > 1 else 0.0,
            "documents": len(samples),
            **({"ppl": found["perplexity,none"]} if "perplexity,none" in found else {}),
        }
        for sample in samples:
            for choice, (score, greedy) in enumerate(sample["filtered_resps"]):
                answers[task, sample["doc_id"], choice] = float(score), str(greedy) == "True"
    return scores, answers


def hugging_face(folder: str, tokenizer: str) -> Any:
    """The harness's own model, with the token 0 that our adapter puts first."""
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    known = Tokenizer.from_file(tokenizer)
    known.post_processor = TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
    with tempfile.TemporaryDirectory() as saved:
        PreTrainedTokenizerFast(tokenizer_object=known, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT).save_pretrained(saved)
        return HFLM(pretrained=folder, tokenizer=saved, device="cpu", dtype="float32", batch_size=16, add_bos_token=True)


def difference(ours: dict[Any, tuple[float, bool]], theirs: dict[Any, tuple[float, bool]]) -> dict[str, Any]:
    assert ours.keys() == theirs.keys()
    apart = [abs(ours[key][0] - theirs[key][0]) for key in ours]
    return {
        "requests": len(apart),
        "largest_difference_nats": max(apart),
        "greedy_differs": sum(ours[key][1] != theirs[key][1] for key in ours),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("models", nargs="*", help="NAME=ARGUMENTS of the adapter")
    parser.add_argument("--hf")
    parser.add_argument("--tokenizer")
    parser.add_argument("--limit", type=int, help="documents of each task, from the start of its file")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    rows, answers = {}, {}
    if options.hf:
        rows["transformers"], answers["transformers"] = evaluated(hugging_face(options.hf, options.tokenizer), options.data, options.limit)
    for each in options.models:
        name, _, arguments = each.partition("=")
        model = RwkvQuantLM(**dict(pair.split("=", 1) for pair in arguments.split(",")))
        rows[name], answers[name] = evaluated(model, options.data, options.limit)
        print(name, {task: round(found["acc"], 4) for task, found in rows[name].items()}, flush=True)
    same = {name: difference(answers[name], answers["transformers"]) for name in rows if options.hf and name.startswith("same")}
    print(json.dumps(same))
    known = {"lm_eval": lm_eval.__version__, "limit": options.limit, **conditions()}
    options.json.write_text(json.dumps({"conditions": known, "models": rows, "against_transformers": same}, indent=1) + "\n")


if __name__ == "__main__":
    main()
