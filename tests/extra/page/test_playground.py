"""What the playground sends: a system prompt, and pictures to a model that sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.extra.page.actions import SECONDS, ask, wait_for_end
from tests.helpers.fake_llama_server import install_fake
from tests.helpers.gguf_bytes import PROJECTOR, TINY, Info, a_file
from tests.helpers.service import serving

TOKENS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b"],
    "tokenizer.chat_template": "{{ messages }}",
}
MODEL = a_file(TINY | TOKENS | {"llama.embedding_length": 64})
SEES = {"clip.projector_type": "mlp", "clip.has_vision_encoder": True}
PROJECTOR_FILE = a_file(PROJECTOR | SEES, [Info("mm.2.weight", (8, 64))])
PICTURE = Path(__file__).parents[3] / "docs/images/status-phone.png"


def test_a_picture_and_the_system_prompt_reach_a_model_that_sees(tmp_path: Path, open_page: Callable[..., Any]):
    models = tmp_path / "models"
    files = {"reads/reads.gguf": MODEL, "sees/sees.gguf": MODEL, "sees/mmproj-F16.gguf": PROJECTOR_FILE}
    for name, content in files.items():
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(content)
    engine = install_fake(tmp_path / "bin", FAKE_STREAM_TOKENS=3)
    with serving(tmp_path, "--models-dir", str(models), ENGINE__BINARY=str(engine)) as service:
        page = open_page(service.url)
        choice, picture = page.get_by_label("Model", exact=True), page.locator("#play-picture")
        choice.select_option("reads")
        assert picture.is_hidden()
        choice.select_option("sees")
        picture.wait_for(timeout=SECONDS)
        picture.locator("input").set_input_files(PICTURE)
        page.get_by_role("button", name="Remove picture 1").wait_for(timeout=SECONDS)
        page.get_by_text("System prompt").click()
        page.get_by_label("System prompt").last.fill("Be brief.")
        with page.expect_request("**/v1/chat/completions") as sent:
            ask(page, "What is this?")
        system, user = json.loads(sent.value.post_data)["messages"]
        assert system == {"role": "system", "content": "Be brief."}
        assert [part["type"] for part in user["content"]] == ["image_url", "text"]
        assert user["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        wait_for_end(page)
        assert page.locator("#play-log .answer").last.inner_text()
        assert page.locator("#play-pictures").is_hidden()
        page.close()
