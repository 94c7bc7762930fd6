"""Detectors on Hugging Face's hub, against a server that speaks as much of its protocol as is needed."""

from __future__ import annotations

import base64
import hashlib
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

import resdet
from resdet.config import DetConfig, ModelConfig
from resdet.models.build import build_detector
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model

constants = pytest.importorskip("huggingface_hub.constants", reason="needs huggingface_hub")
NAME = "me/birds"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by name: files by path. Who has no token may not write."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self.send_file(with_content=False)

    def do_GET(self) -> None:
        self.send_file(with_content=True)

    def send_file(self, with_content: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        content = self.server.files.get(repository, {}).get(rest.partition("/")[2])
        if content is None:
            missing = "EntryNotFound" if repository in self.server.files else "RepoNotFound"
            self.answer(404, b"", {"X-Error-Code": missing})
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT}, with_content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.headers.get("Authorization"):
            self.answer(401, b"{}", {"X-Error-Message": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.server.files.setdefault(name, {})
            self.server.private[name] = asked.get("private") or asked.get("visibility") == "private"
            self.send_json({"url": f"https://huggingface.co/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self.send_json({"files": modes})
        elif "/commit/" in self.path:
            repository = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[repository][entry["value"]["path"]] = content
            self.send_json(
                {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"https://huggingface.co/{repository}/commit/{COMMIT}",
                }
            )
        else:
            self.server.asked.append(f"POST {self.path}")
            self.answer(404, b"{}", {})

    def send_json(self, content: dict[str, Any]) -> None:
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str], with_content: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, whose client has a token and an empty cache."""
    server = Hub()
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a small detector, figures and a picture."""
    folder = tmp_path / "run"
    (folder / "eval").mkdir(parents=True)
    config = DetConfig(name="birds", model=ModelConfig(depth=18, rpn_channels=8))
    weights = build_detector(config, 2).state_dict()
    half = {name: tensor.half() if tensor.dim() == 4 else tensor for name, tensor in weights.items()}
    save_model(folder / "model.safetensors", ModelFile(half, ("gull", "tern"), config, 500))
    (folder / "eval/metrics.json").write_text('{"map07": 0.8125, "ap": 0.5, "images": 7}')
    (folder / "eval/detections.png").write_bytes(b"a picture")
    return folder


def test_a_detector_there_and_back(hub: Hub, run: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    status, out, err = cli("push", run, NAME)
    assert (status, err) == (0, "") and f"--weights hf:{NAME}" in out
    files = hub.files[NAME]
    assert sorted(files) == ["README.md", "detections.png", "model.safetensors", "recipe.py"]
    assert files["detections.png"] == b"a picture" and not hub.private[NAME]
    there, here = load_model(f"hf:{NAME}"), load_model(run)
    assert (there.classes, there.config, there.step) == (here.classes, here.config, here.step)
    assert all(torch.equal(there.weights[name], tensor) for name, tensor in here.weights.items())
    detector = resdet.Detector.load(Path(f"hf:{NAME}"), device="cpu")
    assert detector.classes == ("gull", "tern")
    (tmp_path / "recipe.py").write_bytes(files["recipe.py"])
    assert runpy.run_path(str(tmp_path / "recipe.py"))["config"] == here.config


def test_the_card_says_what_it_is(hub: Hub, run: Path, cli: Callable[..., Any]) -> None:
    cli("push", run, NAME)
    card = hub.files[NAME]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: resdet\npipeline_tag: object-detection\n")
    for part in (
        "# birds",
        "ResNet-18 C4",
        "2 classes: gull, tern",
        f'load("hf:{NAME}")',
        "| VOC07 mAP | COCO AP |",
    ):
        assert part in card
    for part in (
        "| 81.2 | 50.0 |",
        "![Annotated objects and detections.](detections.png)",
        "500 steps",
        "depth=18",
    ):
        assert part in card


def test_a_private_repository(hub: Hub, run: Path, cli: Callable[..., Any]) -> None:
    assert cli("push", run / "model.safetensors", NAME, "--private")[0] == 0
    assert hub.private[NAME] and "detections.png" not in hub.files[NAME]


def test_the_second_use_needs_no_network(hub: Hub, run: Path, cli: Callable[..., Any]) -> None:
    cli("push", run, NAME)
    load_model(f"hf:{NAME}")
    hub.files.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert load_model(f"hf:{NAME}").classes == ("gull", "tern")


def test_what_is_refused(
    hub: Hub,
    run: Path,
    refuses: Callable[..., Any],
    complains: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with refuses("hf:me/nothing", "check the name"):
        load_model("hf:me/nothing")
    with refuses("hf:a/b/c", "check the name"):
        load_model("hf:a/b/c")
    hub.files[NAME] = {"README.md": b""}
    with refuses(f"hf:{NAME}", "model.safetensors"):
        load_model(f"hf:{NAME}")
    complains(["push", run, "a/b/c"], "a/b/c", "check the name")
    complains(["push", run.parent, NAME], "model.safetensors", "train first")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "no_token"))
    complains(["push", run, NAME], NAME, "hf auth login")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refuses("resdet[hub]"):
        load_model(f"hf:{NAME}")
