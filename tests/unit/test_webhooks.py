"""Which deliveries a worker takes for MLflow's, and what it makes of them; a real server delivers in
`tests/integration/test_hookless.py`."""

from __future__ import annotations

import http.client
import json
from types import SimpleNamespace

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from mlflow.webhooks.types import get_example_payload_for_event
from prometheus_client import CollectorRegistry

from registry_export.entities import ModelVersionRef
from registry_export.errors import ConfigurationError
from registry_export.worker import webhooks
from registry_export.worker.listener import listening
from registry_export.worker.webhooks import LARGEST_BODY, WINDOW_S, Delivery, Hints, Receiver

SECRET = "0123456789abcdef"
NOW = 1_800_000_000


class Clock:
    now = float(NOW)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outcomes():
    return []


@pytest.fixture
def receiver(clock, outcomes):
    return Receiver(SECRET, Hints(), outcomes.append, clock)


def body(entity="model_version_alias", action="created", **data):
    return json.dumps({"entity": entity, "action": action, "timestamp": "x", "data": {"name": "m", **data}})


ALIAS = body(alias="champion", version="3")


def signed(text=ALIAS, *, delivery_id="one", at=NOW, secret=SECRET):
    return Delivery(_generate_hmac_signature(secret, delivery_id, str(at), text), delivery_id, str(at), text.encode())


def answer_of(receiver, delivery):
    return receiver.receive(delivery).status.partition(" ")[0]


def test_what_mlflow_signs_is_a_hint_once(receiver, outcomes):
    assert answer_of(receiver, signed()) == "202"
    assert receiver.hints.take() == {ModelVersionRef("m", "3")}
    assert answer_of(receiver, signed()) == "409", "a delivery can be played again"
    assert not receiver.hints
    assert answer_of(receiver, signed(delivery_id="two")) == "202"
    assert outcomes == ["taken", "repeated", "taken"]


@pytest.mark.parametrize(
    "changed",
    [
        {"signature": ""},
        {"signature": "v1,"},
        {"signature": signed(secret="another secret!!").signature},
        {"signature": signed().signature.replace("v1,", "v2,")},
        {"signature": signed().signature + "é"},
        {"delivery_id": "two"},
        {"delivery_id": ""},
        {"timestamp": str(NOW + 1)},
        {"timestamp": ""},
        {"timestamp": "soon"},
        {"timestamp": "9" * 5000},
        {"body": body(alias="champion", version="4").encode()},
        {"body": b""},
    ],
)
def test_a_delivery_of_which_anything_was_changed_is_refused(receiver, changed):
    whole = signed()
    fields = {name: getattr(whole, name) for name in ("signature", "delivery_id", "timestamp", "body")}
    assert answer_of(receiver, Delivery(**{**fields, **changed})) == "401"
    assert not receiver.hints
    assert answer_of(receiver, whole) == "202", "a forgery has used the delivery up"


@pytest.mark.parametrize("off", [-WINDOW_S - 1, WINDOW_S + 1])
def test_a_delivery_from_another_time_is_refused(receiver, off):
    assert answer_of(receiver, signed(at=NOW + int(off))) == "401"


def test_a_delivery_is_remembered_for_as_long_as_its_signature_holds(receiver, clock, monkeypatch):
    monkeypatch.setattr(webhooks, "_MOST_REMEMBERED", 3)
    first = signed(delivery_id="0", at=NOW + int(WINDOW_S))
    assert answer_of(receiver, first) == "202"
    for number in (1, 2):
        assert answer_of(receiver, signed(delivery_id=str(number))) == "202"
    assert answer_of(receiver, signed(delivery_id="3")) == "503", "memory is bounded, and nothing is forgotten early"
    clock.now = NOW + WINDOW_S + 1
    assert answer_of(receiver, signed(delivery_id="4", at=int(clock.now))) == "202"
    assert answer_of(receiver, first) == "409"
    clock.now = NOW + 2 * WINDOW_S + 1
    assert answer_of(receiver, first) == "401"


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        (body("model_version", version="1"), "202", True),
        (body("model_version_tag", "set", version="1", key="registry_export.targets"), "202", True),
        (body("model_version_tag", "deleted", version="1", key="registry_export.targets"), "202", True),
        (body("model_version_tag", "set", version="1", key="registry_export.status"), "200", False),
        (body("model_version_alias", "deleted", alias="a"), "200", False),
        (body("registered_model"), "200", False),
        (body("prompt"), "200", False),
        (body(version="x"), "400", False),
        (body(version="1", name="n" * 257), "400", False),
        (body(version="1", name="a\nb"), "400", False),
        (body(version=1), "400", False),
        ("[]", "400", False),
        ("[" * 100_000, "400", False),
        ("", "400", False),
    ],
)
def test_only_events_that_may_promote_are_hints(receiver, text, status, told):
    assert answer_of(receiver, signed(text)) == status
    assert bool(receiver.hints) is told


@pytest.mark.parametrize("event", ["model_version.created", "model_version_alias.created", "model_version_tag.set"])
def test_mlflows_own_examples_are_understood(receiver, event):
    from mlflow.entities.webhook import WebhookEvent

    entity, action = event.split(".")
    data = get_example_payload_for_event(WebhookEvent.from_str(event))
    text = json.dumps({"entity": entity, "action": action, "data": data})
    assert answer_of(receiver, signed(text)) == ("200" if "tag" in event else "202")


def test_hints_are_bounded_and_taken_once():
    hints = Hints()
    for number in range(2000):
        hints.add(ModelVersionRef("m", str(number)))
    assert len(hints.take()) == 1000
    assert not hints.take()


def test_a_secret_that_can_be_guessed_is_refused_and_none_is_shown(receiver):
    with pytest.raises(ConfigurationError, match="REGISTRY_EXPORT_WEBHOOK_SECRET is too short"):
        Receiver("hunter2", Hints())
    assert SECRET not in repr(receiver)


@pytest.fixture
def ask(receiver, clock):
    health = SimpleNamespace(live=dict, ready=dict)
    with listening("127.0.0.1:0", CollectorRegistry(), health, receiver) as url:

        def ask(content=b"", method="POST", path="/webhook", **headers):
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(content)
            status = connection.getresponse().status
            connection.close()
            return status

        yield ask


def test_a_delivery_comes_by_http_with_a_length_that_is_bounded(ask, receiver):
    whole = signed()
    headers = {
        "X_MLflow_Signature": whole.signature,
        "X_MLflow_Delivery_Id": whole.delivery_id,
        "X_MLflow_Timestamp": whole.timestamp,
    }
    length = {"Content_Length": str(len(whole.body))}
    assert ask(whole.body, **headers) == 411
    assert ask(whole.body, **headers, Content_Length="-1") == 411
    assert ask(**headers, Content_Length=str(LARGEST_BODY + 1)) == 413
    assert ask(**headers, Content_Length="9" * 5000) == 413
    assert ask(whole.body, **length) == 401
    assert ask(method="GET", **headers) == 405
    assert not receiver.hints
    assert ask(whole.body, **headers, **length) == 202
    assert receiver.hints.take() == {ModelVersionRef("m", "3")}


def test_a_body_that_does_not_come_is_given_up_without_a_trace(ask, receiver, monkeypatch, capfd):
    monkeypatch.setattr("registry_export.worker.listener._Handler.timeout", 0.2)
    assert ask(b"half", Content_Length="100") == 408
    assert capfd.readouterr().err == ""


def test_without_a_secret_there_is_no_such_path():
    health = SimpleNamespace(live=dict, ready=dict)
    with listening("127.0.0.1:0", CollectorRegistry(), health) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("GET", "/webhook")
        assert connection.getresponse().status == 404
        connection.close()
