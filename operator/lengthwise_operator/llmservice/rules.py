"""Rules between the fields of an LLMService; each rule is written twice, in CEL and in Python.

The API server (Kubernetes 1.25 and later) checks the CEL text and refuses the manifest at apply.
Older servers drop CEL, so the operator checks the Python function and reports a condition. A test
holds the two equal on the same objects. A message states what is wrong and what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lengthwise_operator.llmservice.fields import seconds
from lengthwise_operator.llmservice.names import GPU
from lengthwise_operator.llmservice.spec import LLMServiceSpec

#: Longest name of an LLMService. With the suffix `-model-cache`, and a hash after that for its
#: pods, it is still a DNS name of at most 63 characters.
MAX_NAME = 40

#: Arguments of vLLM that the operator sets from the resource.
OWNED_ARGS = (
    "model",
    "served-model-name",
    "host",
    "port",
    "scheduling-policy",
    "max-num-seqs",
    "tensor-parallel-size",
    "max-model-len",
    "revision",
    "api-key",
)


def _or_abbreviated(name: str) -> str:
    """Match an argument and its beginnings: vLLM's parser completes `--tensor-par`.

    It accepts dashes and underscores. The first two letters are needed.
    """
    letters = [re.escape(c).replace(r"\-", "[-_]") for c in name]
    pattern = ""
    for letter in reversed(letters[2:]):
        pattern = f"({letter}{pattern})?"
    return "".join(letters[:2]) + pattern


# Without the value behind `=`, which may have line breaks.
_OWNED = "^(--(" + "|".join(map(_or_abbreviated, OWNED_ARGS)) + ")|-tp?)(=|$)"
_URI = (
    r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^ ]*)?"
    r"|oci://[a-z0-9][A-Za-z0-9._:/@-]*"
    r"|path:///[^ ]+)$"
)
_LONGEST_S = 30 * 86400


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        reason: Name of the rule, in CamelCase.
        field: The field that the rule is about, below `spec`; "": it is about the name.
        cel: CEL expression; `self` is the spec (the whole object if `root`).
        message: What is wrong and what to do.
        holds: The same rule in Python: (name, spec) -> whether it is met.
        root: Whether `cel` is about the whole object.
    """

    reason: str
    field: str
    cel: str
    message: str
    holds: Callable[[str, LLMServiceSpec], bool]
    root: bool = False


def _is_owned(argument: str) -> bool:
    # Python's $ also matches before a line break at the end; CEL's does not.
    return re.match(_OWNED.replace("$", r"\Z"), argument) is not None


def _gpus_suffice(spec: LLMServiceSpec) -> bool:
    if GPU not in spec.resources.limits:
        return True
    try:
        return int(spec.resources.limits[GPU]) >= spec.parallelism.tensor
    except ValueError:
        return False


def _in_bounds(duration: str, least_s: float) -> bool:
    return least_s <= seconds(duration) <= _LONGEST_S


RULES: tuple[Rule, ...] = (
    Rule(
        "NameTooLong",
        "",
        f"size(self.metadata.name) <= {MAX_NAME}",
        f"metadata.name must have at most {MAX_NAME} characters, because the names of pods and "
        "Services are made from it",
        lambda name, spec: len(name) <= MAX_NAME,
        root=True,
    ),
    Rule(
        "ReplicasAndAutoscaling",
        "replicas",
        "!(has(self.replicas) && has(self.autoscaling))",
        "set replicas or autoscaling, not both: with autoscaling the number of replicas follows "
        "the predicted backlog",
        lambda name, spec: spec.replicas is None or spec.autoscaling is None,
    ),
    Rule(
        "MinAboveMax",
        "autoscaling.minReplicas",
        "!has(self.autoscaling) || self.autoscaling.minReplicas <= self.autoscaling.maxReplicas",
        "autoscaling.minReplicas must be at most autoscaling.maxReplicas",
        lambda name, spec: (
            spec.autoscaling is None
            or spec.autoscaling.min_replicas <= spec.autoscaling.max_replicas
        ),
    ),
    Rule(
        "RefusedForever",
        "queue.noWorkers",
        "self.queue.noWorkers != 'refuse' || !has(self.autoscaling)"
        " || self.autoscaling.minReplicas > 0",
        "queue.noWorkers refuse needs autoscaling.minReplicas of 1 or more: with none, no job "
        "would ever start the first replica",
        lambda name, spec: (
            spec.queue.no_workers != "refuse"
            or spec.autoscaling is None
            or spec.autoscaling.min_replicas > 0
        ),
    ),
    Rule(
        "ModelOrEndpoint",
        "model.uri",
        "(has(self.model.uri) && self.model.uri != '')"
        " != (has(self.engine.url) && self.engine.url != '')",
        "set model.uri, to start vLLM with these weights, or engine.url, for an endpoint that "
        "exists; not both",
        lambda name, spec: bool(spec.model.uri) != bool(spec.engine.url),
    ),
    Rule(
        "EndpointWithEngine",
        "engine.url",
        "!has(self.engine.url) || self.engine.url == ''"
        " || (size(self.engine.args) == 0 && size(self.engine.env) == 0"
        " && size(self.engine.envFrom) == 0 && self.parallelism.tensor == 1"
        " && !has(self.modelCache) && !has(self.hfTokenSecretRef))",
        "engine.url starts no engine: remove engine.args, env, envFrom, parallelism, modelCache "
        "and hfTokenSecretRef",
        lambda name, spec: (
            not spec.engine.url
            or not (
                spec.engine.args
                or spec.engine.env
                or spec.engine.env_from
                or spec.parallelism.tensor > 1
                or spec.model_cache
                or spec.hf_token_secret_ref
            )
        ),
    ),
    Rule(
        "KeyWithoutEndpoint",
        "engine.apiKeySecretRef",
        "!has(self.engine.apiKeySecretRef) || (has(self.engine.url) && self.engine.url != '')",
        "engine.apiKeySecretRef is the key of engine.url, which is not set",
        lambda name, spec: spec.engine.api_key_secret_ref is None or bool(spec.engine.url),
    ),
    Rule(
        "BadModelUri",
        "model.uri",
        f"!has(self.model.uri) || self.model.uri == '' || self.model.uri.matches(r'{_URI}')",
        "model.uri must be hf://org/name, pvc://claim/folder, oci://registry/image:tag, or "
        "path:///folder (three slashes: the path is absolute)",
        lambda name, spec: not spec.model.uri or re.fullmatch(_URI, spec.model.uri) is not None,
    ),
    Rule(
        "RevisionWithoutHub",
        "model.revision",
        "!has(self.model.revision) || self.model.revision == ''"
        " || (has(self.model.uri) && self.model.uri.startsWith('hf://'))",
        "model.revision names a revision on the hub, so it goes with hf:// only",
        lambda name, spec: spec.model.revision == "" or spec.model.uri.startswith("hf://"),
    ),
    Rule(
        "CacheWithoutHub",
        "modelCache",
        "!has(self.modelCache) || (has(self.model.uri) && self.model.uri.startsWith('hf://'))",
        "modelCache stores downloads from the hub; weights of pvc:// and path:// are read in "
        "place, so remove modelCache",
        lambda name, spec: spec.model_cache is None or spec.model.uri.startswith("hf://"),
    ),
    Rule(
        "TooFewGPUs",
        "resources.limits",
        f"!('{GPU}' in self.resources.limits)"
        f" || int(self.resources.limits['{GPU}']) >= self.parallelism.tensor",
        f"resources.limits['{GPU}'] must be at least parallelism.tensor; or leave it out, and the "
        "operator sets it to parallelism.tensor",
        lambda name, spec: _gpus_suffice(spec),
    ),
    Rule(
        "OwnedArgument",
        "engine.args",
        f"!self.engine.args.exists(a, a.matches(r'{_OWNED}'))",
        "engine.args must not repeat arguments that the operator sets from other fields: model.* "
        "(--model, --served-model-name, --revision, --max-model-len), engine.maxNumSeqs and "
        "parallelism.tensor; nor host, port, api-key and scheduling-policy, which the worker "
        "depends on",
        lambda name, spec: not any(map(_is_owned, spec.engine.args)),
    ),
    Rule(
        "ValueAndValueFrom",
        "engine.env",
        "self.engine.env.all(e, !(has(e.value) && has(e.valueFrom)))",
        "a variable in engine.env must have a value or a valueFrom, not both",
        lambda name, spec: all(e.value is None or e.value_from is None for e in spec.engine.env),
    ),
    Rule(
        "RolloutCannotMove",
        "rolloutStrategy",
        "!(string(self.rolloutStrategy.maxUnavailable) in ['0', '0%']"
        " && string(self.rolloutStrategy.maxSurge) in ['0', '0%'])",
        "rolloutStrategy.maxUnavailable and maxSurge cannot both be 0: no replica could ever be "
        "replaced",
        lambda name, spec: (
            not (
                str(spec.rollout_strategy.max_unavailable) in ("0", "0%")
                and str(spec.rollout_strategy.max_surge) in ("0", "0%")
            )
        ),
    ),
    Rule(
        "DurationOutOfBounds",
        "queue",
        "duration(self.queue.requestTTL) >= duration('1s')"
        " && duration(self.queue.requestTTL) <= duration('720h')"
        " && self.queue.classes.all(c, duration(c.offset) <= duration('720h'))",
        "queue.requestTTL must be between 1s and 720h, and the offset of a class at most 720h",
        lambda name, spec: (
            _in_bounds(spec.queue.request_ttl, 1)
            and all(_in_bounds(c.offset, 0) for c in spec.queue.classes)
        ),
    ),
    Rule(
        "PredictorDurationOutOfBounds",
        "predictor",
        "(duration(self.predictor.driftWindow) == duration('0s')"
        " || duration(self.predictor.driftWindow) >= duration('1m'))"
        " && duration(self.predictor.driftWindow) <= duration('720h')"
        " && duration(self.predictor.reloadEvery) <= duration('24h')",
        "predictor.driftWindow must be 0s or between 1m and 720h, and predictor.reloadEvery at "
        "most 24h",
        lambda name, spec: (
            (
                seconds(spec.predictor.drift_window) == 0
                or _in_bounds(spec.predictor.drift_window, 60)
            )
            and seconds(spec.predictor.reload_every) <= 86_400
        ),
    ),
    Rule(
        "PredictorTwice",
        "predictor.url",
        "!has(self.predictor.url) || self.predictor.url == ''"
        " || (self.predictor.model == 'bundled' && !has(self.predictor.replicas))",
        "predictor.url names a predictor that already runs; remove predictor.model and "
        "predictor.replicas",
        lambda name, spec: (
            spec.predictor.url == ""
            or (spec.predictor.model == "bundled" and spec.predictor.replicas is None)
        ),
    ),
)

#: Field below `spec`, CEL over `self` and `oldSelf` (both specs), message. A server older than 1.25
#: cannot refuse these changes; `conditions.py` reports a changed model.name.
TRANSITION_RULES: tuple[tuple[str, str, str], ...] = (
    (
        "model.name",
        "(has(self.model.name) ? self.model.name : '')"
        " == (has(oldSelf.model.name) ? oldSelf.model.name : '')",
        "model.name cannot change, because the queued jobs are under the old name: create a second "
        "LLMService, move the clients, then delete this one",
    ),
    (
        "modelCache",
        "!has(self.modelCache) || !has(oldSelf.modelCache)"
        " || ((has(self.modelCache.storageClassName) ? self.modelCache.storageClassName : '')"
        " == (has(oldSelf.modelCache.storageClassName) ? oldSelf.modelCache.storageClassName : '')"
        " && self.modelCache.accessModes == oldSelf.modelCache.accessModes)",
        "modelCache.storageClassName and accessModes cannot change once the claim exists: remove "
        "modelCache, delete the claim, and add modelCache again",
    ),
)


def broken_rules(name: str, spec: LLMServiceSpec) -> list[Rule]:
    """Return the rules that an object named `name` with this spec breaks, in their order."""
    return [rule for rule in RULES if not rule.holds(name, spec)]
