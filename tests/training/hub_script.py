"""A process that pushes a learner to a stand-in of a hub and loads it again; prints JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FILES: dict[str, bytes] = {}
REQUESTS: list[str] = []
SHA = "1" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the HTTP API as the client asks for: one repository, all files in the commit."""

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, body: Any, code: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        REQUESTS.append(f"{self.command} {self.path}")
        if self.path == "/api/repos/create":
            self.reply({"url": f"http://{self.headers['Host']}/me/tiny", "id": "me/tiny"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            made = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]
            self.reply({"files": made})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    FILES[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://{self.headers['Host']}/me/tiny/commit/{SHA}"
            self.reply({"success": True, "commitOid": SHA, "commitUrl": url})
        else:
            self.reply({"errors": [], "warnings": []})  # validate-yaml

    def do_GET(self) -> None:
        REQUESTS.append(f"{self.command} {self.path}")
        name = re.split(f"/resolve/(?:{SHA}|main)/", self.path)[-1]
        if name in FILES:
            etag = hashlib.sha1(FILES[name]).hexdigest()
            self.reply(FILES[name], ETag=f'"{etag}"', X_Repo_Commit=SHA)
        elif re.match("/api/models/me/tiny(-timm)?/tree", self.path):
            tree = [
                {"type": "file", "path": n, "size": len(f), "oid": "0"} for n, f in FILES.items()
            ]
            self.reply(tree)
        elif self.path.startswith("/api/models/me/tiny"):
            names = [{"rfilename": name} for name in FILES]
            self.reply({"id": "me/tiny", "sha": SHA, "siblings": names})
        else:
            self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


def timm_loads_by_address(folder: Path) -> bool:
    import timm

    from layergroups.models import load_model

    saved = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(saved, folder, safe_serialization=True)
    FILES.clear()
    FILES.update({file.name: file.read_bytes() for file in folder.iterdir()})
    loaded = load_model("hf://me/tiny-timm").model.state_dict()
    return all(bool((value == loaded[name]).all()) for name, value in saved.state_dict().items())


def pushed_by_the_trainer(folder: Path) -> list[str]:
    import transformers

    from layergroups.integrations.transformers import LayerGroupsTrainer

    size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 9}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**size))
    args = transformers.TrainingArguments(
        str(folder), max_steps=1, use_cpu=True, report_to="none", hub_model_id="me/tiny",
        push_to_hub=True, disable_tqdm=True,
    )  # fmt: skip
    data = [{"input_ids": [1, 2], "labels": i % 2} for i in range(4)]
    trainer = LayerGroupsTrainer(model, args, train_dataset=data, freeze_to=-1)
    trainer.train()
    FILES.clear()
    trainer.push_to_hub()
    return sorted(FILES)


def main(photos: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_stand_in", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    import layergroups as lg

    dls = lg.ImageDataLoaders.from_folder(photos, valid_pct=0.5, size=32, batch_size=4, seed=0)
    learn = lg.vision_learner(dls, "timm:test_resnet", pretrained=False, seed=0, progress=False)
    learn.fit(1)
    url = learn.push_to_hub("me/tiny", license="mit")
    loaded = lg.load_learner("hf://me/tiny")
    photo = next(Path(photos).rglob("*.jpg"))
    told: dict[str, Any] = {"url": url, "files": sorted(FILES), "card": FILES["README.md"].decode()}
    one, two = learn.predict(photo), loaded.predict(photo)
    told["same"] = one.label == two.label and bool((one.probabilities == two.probabilities).all())
    try:
        lg.load_learner("hf://me/absent")
    except lg.LayerGroupsError as error:
        told["absent"] = str(error)
    told["timm"] = timm_loads_by_address(Path(photos).parent / "timm")
    told["pushed by the Trainer"] = pushed_by_the_trainer(Path(photos).parent / "trainer")
    server.shutdown()
    server.server_close()
    try:
        learn.push_to_hub("me/tiny")
    except lg.LayerGroupsError as error:
        told["unreachable"] = str(error)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
