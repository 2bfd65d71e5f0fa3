"""The lists of Ollama's API."""

from __future__ import annotations

from typing import Any

from app.entities.capabilities import Capabilities, HeaderFacts
from app.entities.model import Model
from app.entities.placement import CPU, PlacementConstraints
from app.entities.request_rules import RequestRules
from app.entities.server import InFlight, Server, ServerState
from app.use_cases.reporting.ollama_models import model_details, process_list, tag_list
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import GIB, a_model, a_server, replace

FACTS = HeaderFacts(architecture="qwen3", parameters=8_190_735_360, quantization="Q4_K_M", context_tokens=40960)
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "qwen3",
    "families": ["qwen3"],
    "parameter_size": "8.2B",
    "quantization_level": "Q4_K_M",
}
POOL = PoolState(SchedulingLimits(ttl_seconds=900))


def tags(*models: Model) -> list[Any]:
    listed: Any = tag_list(models)["models"]
    return list(listed)


def test_a_tag_tells_the_file():
    (tag,) = tags(replace(a_model("a"), facts=FACTS))
    digest = tag.pop("digest")
    assert len(digest) == 64 and int(digest, 16)
    assert tag == {
        "name": "a:latest",
        "model": "a:latest",
        "modified_at": "2023-11-14T22:13:20Z",
        "size": GIB,
        "details": DETAILS,
    }


def test_a_model_whose_header_was_not_read_has_few_details():
    (tag,) = tags(a_model("user/repo:Q8_0"))
    assert tag["name"] == "user/repo:Q8_0", "which has a tag"
    assert tag["details"] == DETAILS | {
        "family": "",
        "families": None,
        "parameter_size": "",
        "quantization_level": "",
    }


def test_tags_are_the_models_that_can_be_served_the_newest_first():
    old, new, broken = replace(a_model("old"), created=1), a_model("new"), replace(a_model("x"), problem="is damaged")
    assert [tag["model"] for tag in tags(old, broken, new)] == ["new:latest", "old:latest"]


def test_a_variant_is_a_model_with_a_parent():
    model = replace(a_model("a"), variants={"a:quick": RequestRules(), "b": RequestRules()})
    listed = tags(model)
    assert [tag["model"] for tag in listed] == ["a:latest", "a:quick", "b:latest"]
    assert [tag["details"]["parent_model"] for tag in listed] == ["", "a:latest", "a:latest"]
    assert details(replace(model, variant="b"))["details"]["parent_model"] == "a:latest"
    assert [process["model"] for process in running(ready(model=model))] == ["a:latest"]


def test_aliases_are_listed_where_lists_have_them():
    model = replace(a_model("a"), aliases=("gpt", "claude-*"))
    assert [tag["model"] for tag in tags(model)] == ["a:latest"]
    listed: Any = tag_list([model], with_aliases=True)["models"]
    assert [tag["model"] for tag in listed] == ["a:latest", "gpt:latest"]


def test_virtual_names_are_listed_like_the_model_that_would_answer():
    small, large = a_model("small"), replace(a_model("large"), size_bytes=9)
    for servers, parent in (((), "small:latest"), ((ready(model=large),), "large:latest")):
        listed: Any = tag_list([small, large], servers, virtual_names={"fast": [small, large]})["models"]
        assert [tag["model"] for tag in listed] == ["small:latest", "large:latest", "fast:latest"]
        assert listed[2]["details"]["parent_model"] == parent


def test_a_digest_changes_with_the_file():
    model = a_model("a")
    changed = replace(model, created=model.created + 1)
    assert len({tags(each)[0]["digest"] for each in (model, changed, replace(model, path="/b"))}) == 3
    assert tags(model)[0]["digest"] == tags(replace(model, name="b"))[0]["digest"], "as in Ollama"


def running(*servers: Server, now: float = 100.0) -> list[Any]:
    listed: Any = process_list(replace(POOL, servers=servers), now, 1_700_000_000.0)["models"]
    return list(listed)


def ready(**changes: Any) -> Server:
    server = replace(a_server(a_model("a"), GIB), state=ServerState.READY, last_used=40.0)
    return replace(server, **{"booked": {"GPU-a": 5 * GIB, CPU: GIB}, **changes})


def test_a_process_tells_memory_context_and_when_it_ends():
    (process,) = running(ready())
    # used at 40, and kept for 900 s: 840 s from 100 on
    assert process["expires_at"] == "2023-11-14T22:27:20Z"
    assert (process["size"], process["size_vram"], process["context_length"]) == (6 * GIB, 5 * GIB, 4096)
    assert (process["name"], process["model"]) == ("a:latest", "a:latest")
    measured = ready(reported={"GPU-a": 4 * GIB, CPU: GIB})
    assert (running(measured)[0]["size"], running(measured)[0]["size_vram"]) == (5 * GIB, 4 * GIB)


def test_a_busy_process_is_kept_from_now_on():
    busy = ready(leases=frozenset({1}), in_flight={1: InFlight("", "")})
    assert running(busy)[0]["expires_at"] == "2023-11-14T22:28:20Z"


def test_a_process_that_is_kept_ends_in_a_hundred_years():
    assert running(ready(keep_alive_seconds=float("inf")))[0]["expires_at"].startswith("2123-")


def test_loading_processes_are_listed_and_stopping_ones_are_not():
    states = (ServerState.STARTING, ServerState.DRAINING, ServerState.STOPPING)
    servers = [ready(id=number, model=a_model(f"m{number}"), state=state) for number, state in enumerate(states)]
    assert [process["model"] for process in running(*servers)] == ["m0:latest", "m1:latest"]


def test_replicas_are_one_process():
    (process,) = running(ready(id=1), ready(id=2, last_used=90.0))
    assert (process["size"], process["expires_at"]) == (12 * GIB, "2023-11-14T22:28:10Z")


def details(model: Model, pool: PoolState = POOL, **metadata: Any) -> dict[str, Any]:
    return model_details(model, pool, (), {key.replace("__", "."): value for key, value in metadata.items()})


def test_details_have_the_headers_metadata():
    template = {"tokenizer__chat_template": "{{ x }}", "general__name": "Qwen"}
    odd = {"a__nan": float("nan"), "a__long": tuple(range(6)), "a__short": (1, 2)}
    found = details(replace(a_model("a"), facts=FACTS), qwen3__context_length=40960, **template, **odd)
    assert found["model_info"] == {
        "general.parameter_count": 8_190_735_360,
        "qwen3.context_length": 40960,
        "a.long": [],
        "a.short": [1, 2],
    }
    assert (found["template"], found["modelfile"]) == ("{{ x }}", "FROM a\n")
    assert (found["details"], found["modified_at"]) == (DETAILS, "2023-11-14T22:13:20Z")


def test_capabilities_have_ollamas_names():
    can = Capabilities(completion=True, chat=True, tools=True, thinking=True, infill=True, vision=True, audio=True)
    found = details(replace(a_model("a"), capabilities=can))["capabilities"]
    assert found == ["completion", "tools", "insert", "vision", "audio", "thinking"]
    assert details(replace(a_model("a"), capabilities=Capabilities(embedding=True)))["capabilities"] == ["embedding"]
    assert details(a_model("a"))["capabilities"] == []


def test_parameters_have_the_context_of_one_request():
    def context(model: Model, pool: PoolState = POOL) -> list[str]:
        found: str = details(model, pool)["parameters"]
        return found.split()

    model = a_model("a")
    options = replace(model.launch.options, ctx_size=32768, parallel=4, kv_unified=False)
    split = replace(model, launch=replace(model.launch, options=options))
    automatic = replace(model, constraints=PlacementConstraints(has_auto_context=True))
    assert context(split) == ["num_ctx", "8192"]
    assert context(automatic) == [], "unknown before it is placed"
    assert context(automatic, replace(POOL, servers=(ready(),))) == ["num_ctx", "4096"]
