"""Messages about nightly runs over toy stages: apprise, a webhook and a mail server on this host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.errors import HostError, RecipeError
from builder.host import config
from builder.host.config import NotifySettings
from builder.nightly import ENVIRONMENT
from builder.nightly.notify import Notifier, NotifyAddress, aborts_notified, masked, notify, prepare, recovered
from builder.nightly.record import Fault, NightlyRun, Result
from builder.nightly.report import write
from tests.nightly.conftest import Place, verdicts
from tests.nightly.receivers import mailbox, silent_server, webhook
from tests.nightly.test_report import night as example_night
from tests.nightly.test_report import published

PASSWORD, TOKEN = "s3cretpassword", "T0kenOfTheHook"


def secrets_in(place: Place, *outputs: str) -> list[str]:
    """Files and outputs that hold a part of an address."""
    found = [text for text in outputs if PASSWORD in text or TOKEN in text]
    words = ["grep", "-rlE", f"{PASSWORD}|{TOKEN}", str(place.artifacts)]
    return found + subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()


def test_failures_and_the_first_success_after_them_reach_people(place: Place, tmp_path: Path) -> None:
    """Both receivers get both messages, and none for a night without news; one that is away is only noted."""
    settings = tmp_path / ".config" / "builder" / "settings.toml"
    settings.parent.mkdir(parents=True)
    place.recipe("alpha")
    place.recipe("broken", behave="fail")
    with webhook() as hook, mailbox(tmp_path / "mail") as mail:
        to = [
            f"json://builder:{PASSWORD}@127.0.0.1:{hook.port}/hook/{TOKEN}",
            f"mailto://127.0.0.1:{mail.port}?smtp=127.0.0.1&mode=insecure&from=builder@a.example&to=ops@b.example",
            f"json://away:{PASSWORD}@127.0.0.1:9/{TOKEN}",
        ]
        settings.write_text(f"[notify]\nto = {to}\n")
        settings.chmod(0o600)
        failed = place.run("--artifacts", str(place.artifacts), "nightly")
        assert failed.returncode == 5
        first = NightlyRun.model_validate_json((place.artifacts / "reports" / "latest" / "night.json").read_bytes())
        assert [(sent.to, sent.delivered) for sent in first.notifications] == [
            (f"json://127.0.0.1:{hook.port}", True),
            (f"mailto://127.0.0.1:{mail.port}", True),
            ("json://127.0.0.1:9", False),
        ]
        assert "message to json://127.0.0.1:9: not delivered: A Connection error" in failed.stderr
        assert "others can read" not in failed.stderr
        for file in (write.PAGE, write.TEXT):
            text = (place.artifacts / "reports" / "latest" / file).read_text()
            assert "message to json://127.0.0.1:9: not delivered" in text

        place.recipe("broken", hostname="mended")
        assert verdicts(place.night()) == {"alpha": "unchanged", "broken": "published"}
        quiet = place.night()
        assert (verdicts(quiet)["broken"], quiet["notifications"]) == ("unchanged", [])
        posted, mails = hook.posted, mail.mails

    assert secrets_in(place, failed.stdout, failed.stderr) == []
    assert [path for path, _ in posted] == [f"/hook/{TOKEN}"] * 2
    (_, bad), (_, good) = posted
    assert bad["title"].endswith("nightly run failed (1 published, 1 failed)")
    assert bad["type"] == "failure"
    assert "**broken**: failed in install, exit 5: the installer ended by itself" in bad["message"]
    assert "hint: see the console" in bad["message"]
    assert f"`{place.artifacts}/reports/{first.date}/index.html`" in bad["message"]
    assert good["title"].endswith("nightly run good again (1 unchanged, 1 published)")
    assert "Good again: broken" in good["message"]
    assert [mail["Subject"] for mail in mails] == [bad["title"], good["title"]]
    html = mails[0].get_body(("html",))
    assert html is not None
    assert "<strong>broken</strong>: failed in install" in html.get_content()


def test_a_night_that_cannot_begin_is_reported_too(place: Place) -> None:
    place.recipe("alpha")
    with webhook() as hook:
        environment = place.environment | {ENVIRONMENT: f"json://127.0.0.1:{hook.port}/{TOKEN}"}
        words = place.command("--artifacts", str(place.artifacts), "nightly", "alhpa")
        done = subprocess.run(words, cwd=place.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        ((_, message),) = hook.posted
    assert message["title"].endswith("nightly run ended without a report")
    assert "alhpa" in message["message"]


def test_a_wrong_address_is_refused_before_the_night_and_not_repeated(place: Place) -> None:
    place.recipe("alpha")
    done = place.run("--artifacts", str(place.artifacts), "nightly", "--notify", f"jsn://a:{PASSWORD}@b/{TOKEN}")
    assert done.returncode == 2
    assert "no message can be sent to jsn://…" in done.stderr
    assert secrets_in(place, done.stdout, done.stderr) == []
    assert not place.artifacts.exists()


def night_of(tmp_path: Path, *results: Result, **facts: object) -> NightlyRun:
    return example_night(tmp_path, results=list(results)).model_copy(update=facts)


def result(name: str, verdict: str = "published", **facts: object) -> Result:
    return published(name, 1, 1.0).model_copy(update={"verdict": verdict, **facts})


def test_what_was_not_built_tells_nothing_of_a_recovery(tmp_path: Path) -> None:
    earlier = [
        night_of(tmp_path, result("a", "failed"), result("b", "corrupt"), result("c", "failed"), result("d")),
        night_of(tmp_path, result("a", "skipped"), result("b"), result("c", "interrupted"), result("d", "skipped")),
    ]
    now = night_of(tmp_path, *(result(name) for name in "abcde"), result("f", "failed"))
    assert recovered(now, earlier) == ["a", "c"]


@pytest.mark.parametrize(("when", "count"), [("failure", 0), ("always", 1)])
def test_a_night_without_news_is_reported_where_it_is_asked_for(tmp_path: Path, when: str, count: int) -> None:
    good = night_of(tmp_path, result("a"))
    folder = write.write(tmp_path / "reports", good)
    good = good.model_copy(update={"date": folder.name})
    with webhook() as hook:
        settings = NotifySettings((f"json://127.0.0.1:{hook.port}",), when, "https://ci.example/r/")  # type: ignore[arg-type]
        done = notify(good, [], folder, prepare(None, settings), lambda _: None)
        assert len(hook.posted) == len(done.notifications) == count
        if count:
            assert hook.posted[0][1]["message"].endswith(f"Report: <https://ci.example/r/{folder.name}/index.html>")


def test_a_message_names_the_cause_its_line_and_the_rehearsal(tmp_path: Path) -> None:
    fault = Fault(kind="install", exit_code=5, brief="a panic", cause="kernel panic", line="not *syncing*: VFS")
    bad = result("a-rehearsal", "failed", fault=fault, exit_code=5, rehearsal=True)
    stopped = night_of(tmp_path, bad, *(result(str(number), "failed") for number in range(20)), exit_code=5)
    folder = write.write(tmp_path / "reports", stopped)
    with webhook() as hook:
        address = NotifyAddress(f"json://127.0.0.1:{hook.port}", "json")
        notify(stopped, [], folder, Notifier((address,)), lambda _: None)
        message = hook.posted[0][1]
    assert "nightly rehearsal failed" in message["title"]
    assert r"cause: kernel panic: not \*syncing\*: VFS" in message["message"]
    assert "not for use" in message["message"]
    assert "… and 11 more" in message["message"]


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    with silent_server() as port:
        notifier = Notifier((NotifyAddress(f"json://127.0.0.1:{port}", "json"),))
        (sent,) = notifier.send("title", "body", "failure", limit=1)
    assert (sent.delivered, sent.why) == (False, "no answer within 1 s")


def test_a_crash_is_reported_without_its_text(tmp_path: Path) -> None:
    notes: list[str] = []
    with webhook() as hook:
        notifier = Notifier((NotifyAddress(f"json://127.0.0.1:{hook.port}", "json"),))
        with pytest.raises(ValueError, match=TOKEN), aborts_notified(notifier, "host", notes.append):
            raise ValueError(TOKEN)
        assert "internal error: ValueError" in hook.posted[0][1]["message"]
    assert notes == ["message to json: delivered"]


def test_addresses_in_files_are_read_and_files_of_everybody_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "addresses"
    path.write_text("# on call\n\njson://one.example\n  json://two.example:8080  \n")
    path.chmod(0o644)
    notifier = prepare([str(path), "json://one.example"], NotifySettings())
    assert [address.label for address in notifier.addresses] == ["json://one.example", "json://two.example:8080"]
    assert notifier.warnings == (f"others can read the addresses in {path}: chmod 600 {path}",)
    path.chmod(0o600)
    assert prepare([str(path)], NotifySettings()).warnings == ()
    path.chmod(0o640)
    in_settings = NotifySettings(("json://one.example",), source=path)
    assert len(prepare(None, in_settings).warnings) == 1
    path.write_text("# nobody yet\n")
    with pytest.raises(RecipeError, match="there is no address for messages in"):
        prepare([str(path)], NotifySettings())
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        prepare([str(tmp_path / "nothing")], NotifySettings())


def test_no_address_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert prepare(None, NotifySettings()) == Notifier()
    with pytest.raises(HostError) as fault:
        prepare(["json://one.example"], NotifySettings())
    assert fault.value.hint == "pip install 'builder[notify]'"


def test_labels_hold_no_secrets() -> None:
    labels = {
        "mailto://me:pw@mail.example?to=a@b.example": "mailto://mail.example:25",
        "mmost://chat.example:8443/3ccdd113474722377935511fc85d3dd4": "mmost://chat.example:8443",
        # Here the host is a token, or a topic that is as good as one.
        "slack://TJ1234567/BJ1234567/abcdefghijklmnopqrstuvwx": "slack://…",
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ": "slack://…",
        "ntfy://mytopic": "ntfy://…",
    }
    found = prepare(list(labels), NotifySettings()).addresses
    assert [address.label for address in found] == list(labels.values())
    assert "TJ1234567" not in repr(found)


def test_the_settings_of_the_manual_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manual = Path(__file__).parents[2] / "docs" / "nightly.md"
    _, _, rest = manual.read_text().partition("```toml\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config.user_file().parent.mkdir()
    config.user_file().write_text(rest.partition("```")[0])
    settings = config.load_notify()
    *addresses, file = settings.to
    assert (file, settings.when) == ("/etc/builder/addresses", "failure")
    assert len(prepare(addresses, settings).addresses) == 6


def test_what_apprise_says_is_masked() -> None:
    url = "jsons://me:p%40ss@h.example/a/T0K?+X-Key=Abc123&from=you"
    said = "from h.example: 401 for me at /a/T0K with p@ss (p%40ss), Abc123"
    assert masked(said, url, "jsons://h.example") == ("from h.example: 401 for me at /a/*** with *** (***), ***")


def test_addresses_are_kept_from_builds_and_warned_of_on_the_command_line(place: Place) -> None:
    """What a build runs may be anybody's script."""
    place.recipe("alpha", behave="environment")
    environment = place.environment | {ENVIRONMENT: f"json://127.0.0.1:9/{TOKEN}"}
    words = place.command("--artifacts", str(place.artifacts), "nightly", "--notify", f"json://127.0.0.1:9/{TOKEN}")
    done = subprocess.run(words, cwd=place.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = (place.artifacts / "environment").read_text().splitlines()
    assert "HOME" in names
    assert ENVIRONMENT not in names
    assert "every user of this host can read an address on the command line" in done.stderr
    assert secrets_in(place, done.stdout, done.stderr) == []
