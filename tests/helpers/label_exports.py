"""Exports of labelling tools, made by hand in the shape that label-studio-sdk 2.1.2 and argilla 2.8.0 write."""

from __future__ import annotations

from typing import Any

TIMES = {"created_at": "2026-11-30T09:00:00.123456Z", "updated_at": "2026-11-30T17:01:00.500000+08:00"}
UPDATED = "2026-11-30T09:01:00.500Z"


def choices(name: str, value: str) -> dict[str, Any]:
    return _result(name, "choices", {"choices": [value]})


def note(value: str) -> dict[str, Any]:
    return _result("note", "textarea", {"text": [value]})


def rating(name: str, value: int) -> dict[str, Any]:
    return _result(name, "rating", {"rating": value})


def pairwise(name: str, value: str) -> dict[str, Any]:
    return _result(name, "pairwise", {"selected": value})


def _result(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "prompt", "type": kind, "value": value, "origin": "manual"}


def annotation(by: Any, *results: dict[str, Any], cancelled: bool = False) -> dict[str, Any]:
    """`by` is a number, or an object of which the address counts."""
    said = {"completed_by": by, "result": list(results), "was_cancelled": cancelled}
    return {"id": 11, **said, "ground_truth": False, "lead_time": 12.5, "task": 1, "project": 1, **TIMES}


def task(pair_id: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    """The format JSON. What the task was made from stands in `data`; its own id is Label Studio's."""
    data = {"pair_id": pair_id, "prompt": "q", "a": "x", "b": "y"}
    return {"id": 1, "data": data, "annotations": list(annotations), "predictions": [], "inner_id": 1, "project": 1}


def flat_task(pair_id: str, by: Any = None, **values: Any) -> dict[str, Any]:
    """The format JSON_MIN: a row for an annotation, and one of nulls for a task that has none."""
    made = {"annotator": by, "annotation_id": by and 11, "lead_time": by and 12.5}
    times = TIMES if by else dict.fromkeys(TIMES)
    return {"id": 1, "pair_id": pair_id, "prompt": "q", "a": "x", "b": "y", **values, **made, **times}


def record(pair_id: str, **responses: list[tuple[str, Any, str]]) -> dict[str, Any]:
    """Argilla's `to_json`: (user, value, status) for each question; the status is not written."""
    answers = {
        question: [{"value": value, "user_id": user} for user, value, _ in said] for question, said in responses.items()
    }
    more = {"suggestions": {}, "responses": answers, "vectors": {}, "status": "completed", "_server_id": "s"}
    return {"id": pair_id, "fields": {"prompt": "q", "a": "x", "b": "y"}, "metadata": {}, **more}


def flat_record(pair_id: str, **responses: list[tuple[str, Any, str]]) -> dict[str, Any]:
    """Argilla's `to_list(flatten=True)`: a column for values, users and statuses; null where nobody answered."""
    columns: dict[str, Any] = {}
    for question, said in responses.items():
        users, values, statuses = zip(*said, strict=True) if said else (None, None, None)
        columns[f"{question}.responses"] = values and list(values)
        columns[f"{question}.responses.users"] = users and list(users)
        columns[f"{question}.responses.status"] = statuses and list(statuses)
    return {"id": pair_id, "status": "completed", "_server_id": "s", "prompt": "q", "a": "x", "b": "y", **columns}
