"""The gallery shows the input of training: the same clips, masks, partners and features."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from run_folders import write_run

from eval.gallery import Args, main
from eval.pages.gallery import Exhibit, Plan, coloured, exhibits, gallery, plan_of_run
from psla_wds.config import to_json
from psla_wds.errors import ConfigError
from psla_wds.loading.batches import evaluation_batches, training_batches
from psla_wds.sampling.augment import NO_PARTNER, first_sample
from psla_wds.sampling.schedule import BatchLayout, TrainingSchedule
from train.recipes import DEMO
from train.run.log import read_run

SVG = "{http://www.w3.org/2000/svg}"
STEP, CLIPS, BATCH = 8, 4, 6
MASKS = replace(DEMO.augment, freq_mask=48, time_mask=128, mixup_rate=0.5)
CONFIG = replace(DEMO, seed=5, batch_size=BATCH, augment=MASKS)


@pytest.fixture(scope="module")
def plan(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = to_json(replace(CONFIG, index=(f"{shards}:train",)))
    return plan_of_run(read_run(write_run(folder, [], **settings)), (), STEP)


@pytest.fixture(scope="module")
def shown(plan: Plan) -> list[Exhibit]:
    return exhibits(plan, CLIPS)


def test_the_last_stage_is_the_input_of_the_model(shown: list[Exhibit], plan: Plan):
    config = replace(plan.config, device="cpu")
    with training_batches(
        plan.index, batch_size=BATCH, seed=5, first_step=STEP - 1, config=config
    ) as batches:
        batch = next(iter(batches))
    for i, exhibit in enumerate(shown):
        np.testing.assert_allclose(exhibit.log_mels[3], batch.log_mel[i].numpy(), atol=1e-5)
        assert exhibit.title.startswith(plan.index.clip_id(batch.rows[i]))
    assert len(shown) == CLIPS


def test_the_place_in_a_long_clip_is_that_of_training(plan: Plan):
    features = replace(plan.config.features, num_frames=32)
    config = replace(plan.config, features=features, device="cpu")
    schedule = TrainingSchedule(
        plan.index, config, BatchLayout(batch_size=BATCH), seed=5, first_step=STEP - 1
    )
    shown = exhibits(Plan(plan.index, config, schedule), CLIPS)
    with training_batches(
        plan.index, batch_size=BATCH, seed=5, first_step=STEP - 1, config=config
    ) as batches:
        log_mel = next(iter(batches)).log_mel.numpy()
    for exhibit, trained, crop in zip(shown, log_mel, schedule(0).crops[:, 0], strict=False):
        plain, masked, mixed, both = exhibit.log_mels
        np.testing.assert_allclose(both, trained, atol=1e-5)
        if "not mixed" in exhibit.title:
            np.testing.assert_allclose(plain, mixed, atol=1e-5)
        beyond = len(exhibit.waveform) - features.max_clip_samples
        start_s = first_sample(crop, beyond + 1) / 16_000
        assert f") from {start_s:.2f} s" in exhibit.title
        assert masked.shape == (32, 128)


def test_each_stage_changes_what_its_name_says(shown: list[Exhibit], plan: Plan):
    blank, index = -CONFIG.features.mean / CONFIG.features.std, plan.index
    mixed = [" mixed with " in exhibit.title for exhibit in shown]
    assert any(mixed) and not all(mixed)
    assert mixed == (plan.draws(CLIPS).partners != NO_PARTNER).tolist()
    config = replace(plan.config, device="cpu")
    with evaluation_batches(index, batch_size=len(index), config=config) as batches:
        clean = next(batches).log_mel.numpy()
    rows = {index.clip_id(row): row for row in range(len(index))}
    for exhibit, has_partner in zip(shown, mixed, strict=True):
        plain, masked, mix, both = exhibit.log_mels
        changed = masked != plain
        assert changed.any() and np.allclose(masked[changed], blank)
        assert np.allclose(both[changed], blank)
        assert (np.abs(mix - plain).max() > 1e-3) == has_partner
        np.testing.assert_allclose(both[~changed], mix[~changed], atol=1e-5)
        row = rows[exhibit.title.split(" (")[0]]
        np.testing.assert_allclose(plain, clean[row], atol=1e-5)
        assert len(exhibit.waveform) == index.num_samples[row]


def test_a_gallery_is_one_svg_with_units(shown: list[Exhibit]):
    root = ElementTree.fromstring(gallery(shown, CONFIG.features))
    images = root.findall(f"{SVG}image")
    assert len(images) == 4 * CLIPS
    assert all(image.get("href").startswith("data:image/png;base64,") for image in images)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts.count("2.56 s") == 4 * CLIPS  # 256 frames of 10 ms
    assert "128 mel filters from 20 to 8000 Hz" in texts[-1] and "value 1.02" in texts[-1]
    steps = coloured(np.linspace(-2, 2, 50, dtype=np.float32)[None], (-1.0, 1.0))[0].astype(int)
    lightness = np.diff(steps @ [3, 6, 1])  # about how light they look
    assert (lightness >= 0).all() and (lightness[13:36] > 0).all()


def test_a_url_in_a_run_is_asked_only_if_the_command_names_it(tmp_path: Path):
    settings = to_json(replace(CONFIG, index=("http://127.0.0.1:1/s", "b")))
    run = read_run(write_run(tmp_path / "run", [], **settings))
    with pytest.raises(ConfigError, match=r"add --index http://127\.0\.0\.1:1/s add --index b"):
        plan_of_run(run, (), STEP)


def test_the_command_shows_shards_without_a_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "new" / "g.svg"
    words = [f"--index={shards}:train", "--clips=2", "--features.num-frames=256"]
    monkeypatch.setattr("sys.argv", ["gallery", *words, f"--output={path}"])
    main()
    assert len(ElementTree.parse(path).getroot().findall(f"{SVG}image")) == 8
    for options, problem in (
        ({}, "nothing to show"),
        ({"index": ("s",), "output": Path("g.png")}, "not an .svg"),
        ({"run": Path("r"), "augment": CONFIG.augment}, "its own settings are used"),
    ):
        with pytest.raises(ConfigError, match=problem):
            Args(**options)
