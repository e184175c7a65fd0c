from __future__ import annotations

from typing import Any

from lengthwise_operator.children.pod_template import merge, merge_template

OURS: dict[str, Any] = {
    "metadata": {"labels": {"app": "ours"}, "annotations": {}},
    "spec": {
        "containers": [
            {
                "name": "main",
                "image": "vllm",
                "args": ["serve"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            },
            {"name": "worker", "image": "worker"},
        ],
        "tolerations": [{"key": "gpu"}],
        "volumes": [{"name": "cache", "emptyDir": {}}],
    },
}


def test_a_container_of_the_same_name_is_merged_field_by_field() -> None:
    merged = merge(OURS, {"spec": {"containers": [{"name": "main", "tty": True}]}})
    assert merged["spec"]["containers"][0] == {**OURS["spec"]["containers"][0], "tty": True}
    assert merged["spec"]["containers"][1] == OURS["spec"]["containers"][1]


def test_a_container_of_another_name_is_added_behind_ours() -> None:
    merged = merge(OURS, {"spec": {"containers": [{"name": "logs", "image": "x"}]}})
    assert [c["name"] for c in merged["spec"]["containers"]] == ["main", "worker", "logs"]


def test_variables_are_merged_by_name() -> None:
    change = {"name": "main", "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}
    merged = merge(OURS, {"spec": {"containers": [change]}})
    env = {e["name"]: e["value"] for e in merged["spec"]["containers"][0]["env"]}
    assert env == {"A": "1", "B": "3", "C": "4"}


def test_arguments_are_replaced_as_a_whole() -> None:
    merged = merge(OURS, {"spec": {"containers": [{"name": "main", "args": ["other"]}]}})
    assert merged["spec"]["containers"][0]["args"] == ["other"]


def test_tolerations_are_added_once() -> None:
    change = {"spec": {"tolerations": [{"key": "gpu"}, {"key": "spot"}]}}
    assert merge(OURS, change)["spec"]["tolerations"] == [{"key": "gpu"}, {"key": "spot"}]


def test_null_takes_a_field_away() -> None:
    assert "volumes" not in merge(OURS, {"spec": {"volumes": None}})["spec"]


def test_neither_side_is_changed() -> None:
    theirs = {"spec": {"containers": [{"name": "main", "args": ["other"]}]}}
    before = repr((OURS, theirs))
    merge_template(OURS, theirs)
    assert repr((OURS, theirs)) == before


def test_the_labels_by_which_pods_are_found_cannot_be_taken_over() -> None:
    merged = merge_template(OURS, {"metadata": {"labels": {"app": "theirs", "team": "a"}}})
    assert merged["metadata"]["labels"] == {"app": "ours", "team": "a"}


def test_a_port_without_a_protocol_gets_tcp_which_server_side_apply_needs() -> None:
    change = {"spec": {"containers": [{"name": "logs", "ports": [{"containerPort": 1}]}]}}
    merged = merge_template(OURS, change)
    assert merged["spec"]["containers"][2]["ports"] == [{"containerPort": 1, "protocol": "TCP"}]


def test_a_template_may_set_nothing_but_metadata_and_spec() -> None:
    assert "status" not in merge_template(OURS, {"status": {}, "kind": "Pod"})
