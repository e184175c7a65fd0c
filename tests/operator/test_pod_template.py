from __future__ import annotations

from typing import Any

from lengthwise_operator.children.pod_template import merge, merge_template

BASE: dict[str, Any] = {
    "metadata": {"labels": {"app": "operator"}, "annotations": {}},
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
    merged = merge(BASE, {"spec": {"containers": [{"name": "main", "tty": True}]}})
    assert merged["spec"]["containers"][0] == {**BASE["spec"]["containers"][0], "tty": True}
    assert merged["spec"]["containers"][1] == BASE["spec"]["containers"][1]


def test_a_container_of_another_name_is_added_at_the_end() -> None:
    merged = merge(BASE, {"spec": {"containers": [{"name": "logs", "image": "x"}]}})
    assert [c["name"] for c in merged["spec"]["containers"]] == ["main", "worker", "logs"]


def test_variables_are_merged_by_name() -> None:
    change = {"name": "main", "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}
    merged = merge(BASE, {"spec": {"containers": [change]}})
    env = {e["name"]: e["value"] for e in merged["spec"]["containers"][0]["env"]}
    assert env == {"A": "1", "B": "3", "C": "4"}


def test_arguments_are_replaced_as_a_whole() -> None:
    merged = merge(BASE, {"spec": {"containers": [{"name": "main", "args": ["other"]}]}})
    assert merged["spec"]["containers"][0]["args"] == ["other"]


def test_tolerations_are_added_once() -> None:
    change = {"spec": {"tolerations": [{"key": "gpu"}, {"key": "spot"}]}}
    assert merge(BASE, change)["spec"]["tolerations"] == [{"key": "gpu"}, {"key": "spot"}]


def test_null_removes_a_field() -> None:
    assert "volumes" not in merge(BASE, {"spec": {"volumes": None}})["spec"]


def test_a_directive_removes_what_plain_kubectl_apply_cannot() -> None:
    gone = {"$patch": "delete"}
    main = {"name": "main", "env": [{"name": "A", **gone}, {"name": "X", **gone}], "args": gone}
    merged = merge(
        BASE, {"spec": {"volumes": gone, "containers": [main, {"name": "worker", **gone}]}}
    )
    assert "volumes" not in merged["spec"]
    (left,) = merged["spec"]["containers"]
    assert left == {"name": "main", "image": "vllm", "env": [{"name": "B", "value": "2"}]}


def test_a_directive_replaces_an_object_instead_of_merging_it() -> None:
    merged = merge(
        {"probe": {"httpGet": {"path": "/"}}}, {"probe": {"$patch": "replace", "exec": {}}}
    )
    assert merged == {"probe": {"exec": {}}}


def test_no_directive_reaches_the_manifest_where_there_was_nothing() -> None:
    change = {
        "a": {"$patch": "replace", "b": {"$patch": "delete"}},
        "env": [{"name": "N", "c": None}],
    }
    assert merge({}, change) == {"a": {}, "env": [{"name": "N"}]}


def test_neither_input_is_changed() -> None:
    override = {"spec": {"containers": [{"name": "main", "args": ["other"]}]}}
    before = repr((BASE, override))
    merge_template(BASE, override)
    assert repr((BASE, override)) == before


def test_the_labels_that_select_the_pods_cannot_be_changed() -> None:
    merged = merge_template(BASE, {"metadata": {"labels": {"app": "user", "team": "a"}}})
    assert merged["metadata"]["labels"] == {"app": "operator", "team": "a"}


def test_a_port_without_a_protocol_gets_tcp_which_server_side_apply_needs() -> None:
    change = {"spec": {"containers": [{"name": "logs", "ports": [{"containerPort": 1}]}]}}
    merged = merge_template(BASE, change)
    assert merged["spec"]["containers"][2]["ports"] == [{"containerPort": 1, "protocol": "TCP"}]


def test_a_template_may_set_nothing_but_metadata_and_spec() -> None:
    assert "status" not in merge_template(BASE, {"status": {}, "kind": "Pod"})
