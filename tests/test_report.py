"""The report: whole and without network, and in a browser its curves are drawn and switched."""

import html
import io
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
import xarray as xr
from conftest import ROOT, load_config

import lr_order_jax
from analysis import measure, report
from lr_order_jax import experiment, figures, results, spec, study

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--window-size=1300,1000"
)


def fields_of(name, **changes):
    return dict(load_config(name, "smoke").items()) | changes


@pytest.fixture(scope="module")
def sweep_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "sweep"
    small = {"n": 12, "d": 6, "m_w": 4, "m_v": 8, "num_test": 16, "num_seeds": 2}
    experiment.run(spec.parse(fields_of("sweep", **small)), folder)
    return folder


@pytest.fixture(scope="module")
def study_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "study"
    small = {"num_test": 40, "num_records": 2, "flow_time_1": 2.0, "flow_time_2": 2.0}
    fields = fields_of("lazy_limit", d=(10, 20), n=(15, 25), zipped=("d+n",), **small)
    study.run(spec.parse_study(fields), folder)
    return folder


def test_the_page_holds_everything_and_asks_for_nothing(sweep_run):
    run = lr_order_jax.load(sweep_run)
    found = measure.norms(run)
    (sweep_run / "analysis").mkdir(exist_ok=True)
    results.write_results(found, sweep_run / "analysis" / "norms.nc")
    out = sweep_run / "report.html"
    report.report([sweep_run], out)
    page = out.read_text()
    outside = page[: page.index("<style>")] + re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']*""", outside)
    for told in (
        "Assumption 3.1", "jax ", "flow_time_1", "P-only", "Norms",
        "results.nc",
        "complete", "Frobenius norm",
    ):  # fmt: skip
        assert told in page, told
    assert run.command in html.unescape(page)
    images = re.findall(r'<img src="data:[^>]*>', page)
    assert len(images) == 4  # the problem's two, Figure 2, what was measured
    for image in images:
        assert len(re.search(r'alt="([^"]*)"', image)[1]) > 20
    assert 'lang="en"' in page


def test_numbers_of_the_lines_are_those_of_the_results(sweep_run):
    part = report.part_of(sweep_run, "run", sweep_run)
    lines = report.lines_of([part])
    kinds, values = lines.columns["kind"], lines.columns["train_loss"]
    dataset = results.read_results(sweep_run)
    first = dataset["train_loss"].isel(eta_init=0).transpose("seed", "flow_time").values
    np.testing.assert_allclose(values[kinds.index("mean")], first.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(values[kinds.index("seed")], first[0], rtol=1e-6)
    low = values[kinds.index("error")]
    np.testing.assert_allclose(low, first.mean(0) - first.std(0, ddof=1) / 2**0.5, rtol=1e-5)
    fewer = part._replace(dataset=part.dataset.isel(eta_init=[-1]), title="other")
    both = report.lines_of([part, fewer]).columns
    of_other = both["label"].index(next(x for x in both["label"] if x.startswith("run other")))
    of_run = both["label"].index(both["label"][of_other].replace("run other", "run run"))
    assert both["colour"][of_other] == both["colour"][of_run] != both["colour"][0]
    assert both["dash"][of_other] != both["dash"][of_run]
    assert lines.choices["seed"] == ["0", "1"]
    assert lines.choices["eta_init"] == [f"{rate:g}" for rate in dataset["eta_init"].values]


def luminance(colour):
    digits = colour.lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_colours_are_legible():
    """WCAG AA: contrast of text of at least 4.5 on the ground it stands on, of lines of 3."""
    style = (ROOT / "analysis" / "report.html.j2").read_text()
    for line in figures.hex_colours(50):
        assert 1.05 / (luminance(line) + 0.05) >= 3, line
    texts = re.findall(r"[;{ ]color: (#\w+)", style)
    grounds = re.findall(r"background: (#\w+)", style)
    assert len(texts) >= 5
    assert len(grounds) >= 3
    for text in texts:
        assert 1.05 / (luminance(text) + 0.05) >= 4.5, text
    for ground in grounds:
        assert (luminance(ground) + 0.05) / (luminance("#1a1a1a") + 0.05) >= 4.5, ground


def test_runs_side_by_side_and_a_study(sweep_run, study_run, tmp_path):
    again = shutil.copytree(sweep_run, tmp_path / "again")
    report.report([sweep_run, study_run, again], tmp_path / "three.html")
    with pytest.raises(ValueError, match="given twice"):
        report.report([again, again / "checkpoints" / ".."], tmp_path / "two.html")
    page = (tmp_path / "three.html").read_text()
    assert page.count("<h3>") == 3
    assert 'class="differs"' in page


def test_directories_of_one_name_are_told_apart_and_links_are_quoted(sweep_run, tmp_path):
    folders = [tmp_path / "50% #1" / "run", tmp_path / "b" / "run"]
    for folder in folders:
        shutil.copytree(sweep_run, folder)
    report.report(folders, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    for folder in folders:
        assert f"<caption>Which hold in {folder}, over all members</caption>" in page
        assert f"<h3>{folder} (complete)</h3>" in page
    assert 'href="50%25%20%231/run/results.nc"' in page


def measured_in(folder, name="evaluation", **options):
    """Measures and writes the file, as the command does without a figure."""
    found = measure.MEASURES[name](lr_order_jax.load(folder), **options)
    (folder / "analysis").mkdir(exist_ok=True)
    results.write_results(found, folder / "analysis" / f"{measure.file_name(name, options)}.nc")
    return found


def test_a_study_tells_which_shape_is_shown(study_run, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study_run, folder)
    measured_in(folder / "d=20,n=25")
    report.report([folder], tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text()
    shown = re.findall(r'alt="([^"]*)"', page)
    of_first = [alt for alt in shown if "of d=10,n=15 (the first of 2 programs): " in alt]
    assert {alt.split(" of ")[0] for alt in of_first} == {"Learning order", "Error against rate"}
    assert any(alt.startswith("Error against shape: Final P-only error") for alt in shown)
    assert any(alt.startswith("Evaluation of d=20,n=25: Training loss") for alt in shown)
    assert "<caption>Evaluation of d=20,n=25: lazy_limit at step" in page
    with pytest.raises(ValueError, match=r"holds 2 programs, .* such as .*study/d=10,n=15"):
        measure.evaluation(lr_order_jax.load(folder))


def test_what_was_measured_is_told_with_its_variant_and_age(sweep_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(sweep_run, folder)
    shutil.rmtree(folder / "analysis", ignore_errors=True)
    measured_in(folder)
    measured_in(folder, changed={"num_test": 20})
    newest = max(lr_order_jax.load(folder).checkpoints)
    older = measured_in(folder, "norms").assign_coords(checkpoint=[newest - 1])
    results.write_results(older, folder / "analysis" / "norms.nc")
    (folder / "analysis" / "mine.nc").write_text("no such file")
    report.report([folder], tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "<caption>Evaluation: two_layer at step" in page
    assert "Evaluation-num test=20: two_layer, evaluated with num_test = 20 at step" in page
    marked = f"older: up to step {newest - 1}, the newest checkpoint is {newest}"
    assert f"Norms ({marked}): " in page
    assert page.count("older: ") == 3  # table; text and caption of the figure
    assert "(two_layer, evaluated with num_test = 20)" in page
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "mine.nc" in line]
    assert line.startswith(f"{folder}/analysis/mine.nc: cannot be shown (")
    assert "mine.nc: cannot be shown" in page


def test_what_was_measured_of_a_whole_run_is_marked_when_it_has_gone_on(sweep_run):
    run = lr_order_jax.load(sweep_run)
    now = int(run.dataset["steps_taken"].sum())
    at = lambda steps: xr.Dataset(attrs={"steps_taken": steps})  # noqa: E731
    assert report._older(run, at(now)) == ""
    assert report._older(run, at(now - 1)) == "older: the run has gone on since"


def test_an_unfinished_run_is_reported(sweep_run, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(sweep_run, folder)
    dataset = results.read_results(folder)
    for name, variable in dataset.data_vars.items():
        if "flow_time" in variable.dims:
            dataset[name] = variable.where(dataset["flow_time"] < 1).assign_attrs(variable.attrs)
    dataset["status"] = xr.zeros_like(dataset["status"])
    dataset["status"].attrs = results.read_results(folder)["status"].attrs
    dataset.attrs["complete"] = np.int32(0)
    results.write_results(dataset, folder / "results.nc")
    report.report([folder], tmp_path / "half.html")
    page = (tmp_path / "half.html").read_text()
    assert "<h1>half (not finished)</h1>" in page
    assert "paired by seed: not finished" in page
    shown = [alt.split(":")[0] for alt in re.findall(r'<img src="data:[^>]*alt="([^"]*)"', page)]
    assert "Error against rate" not in shown  # no member has ended
    assert shown[:2] == ["Learning order", "Figure 2"]


def test_a_run_without_results_is_one_line(sweep_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text((sweep_run / "config.json").read_text())
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == 2
    told = f"{tmp_path}/results.nc: cannot be read (no results have been written yet)"
    assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nowhere",), "error: nowhere/config.json: cannot be read"),
        (("{run}", "--out=/no/such/folder/r.html"), "/no/such/folder"),
    ],
)
def test_wrong_input_gives_one_line(sweep_run, arguments, line):
    given = [a.replace("{run}", str(sweep_run)) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "analysis.report", *given],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


# In a browser.


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def open_page(browser, path):
    """Seconds until the page is drawn."""
    start = time.perf_counter()
    browser.get(path.as_uri())
    idle = "return window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle"
    while not browser.execute_script(idle):
        assert time.perf_counter() - start < 60
        time.sleep(0.02)
    return time.perf_counter() - start


def shown(browser):
    """How many lines are shown."""
    return browser.execute_script(
        "return Bokeh.documents[0]._all_models.values().find(m => m.type == 'IndexFilter')"
        ".indices.length"
    )


def press(browser, label):
    """Clicks the button of a switch, which stands in shadow roots."""
    clicked = browser.execute_script(
        """
        const found = []
        const walk = root => { for (const e of root.querySelectorAll('*')) {
          if (e.shadowRoot) walk(e.shadowRoot)
          if (e.matches('.bk-btn') && e.textContent == arguments[0]) found.push(e) } }
        walk(document)
        found[0].click()
        return found.length""",
        label,
    )
    assert clicked == 1
    time.sleep(0.3)


def colours_of(browser):
    """Share of the panels' pixels that are neither white nor gray."""
    image = PIL.Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    pixels = np.asarray(image, int)
    return float(np.mean(np.ptp(pixels, axis=-1) > 60))


def test_curves_are_drawn_and_switched(browser, sweep_run):
    report.report([sweep_run], sweep_run / "report.html")
    open_page(browser, sweep_run / "report.html")
    rates = len(results.read_results(sweep_run)["eta_init"])
    assert shown(browser) == 3 * rates  # mean and one standard error to each side
    drawn = colours_of(browser)
    assert drawn > 1e-3
    press(browser, "1")  # of the seeds, which a mean is over
    assert shown(browser) == 3 * rates
    press(browser, "each seed")
    assert shown(browser) == 2 * rates
    press(browser, "1")  # the seed
    assert shown(browser) == rates
    assert not [line for line in browser.get_log("browser") if line["level"] != "INFO"]
    for rate in results.read_results(sweep_run)["eta_init"].values:
        press(browser, f"{rate:g}")
    assert shown(browser) == 0
    assert colours_of(browser) < drawn / 2
    browser.execute_script(
        "const s = Bokeh.documents[0]._all_models.values().find(m => m.type == 'Select');"
        "s.value = 'test_error'"
    )
    label = "return Bokeh.documents[0]._all_models.values().filter(m => m.type == 'LinearAxis')"
    labels = browser.execute_script(f"{label}.map(a => a.axis_label).toArray()")
    assert "test error of the mixture" in labels
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def tip_over(browser, x, y):
    """What is told at a place of the page."""
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(browser, duration=0)
    actions.w3c_actions.pointer_action.move_to_location(x, y)
    actions.perform()
    time.sleep(0.05)
    return browser.execute_script(
        """
        const found = []
        const text = n => n.nodeType == 3 ? n.textContent : n.tagName == 'STYLE' ? '' :
          [...(n.shadowRoot ? [n.shadowRoot] : []), ...n.childNodes].map(text).join(' ')
        const walk = root => { for (const e of root.querySelectorAll('*')) {
          if (e.shadowRoot) walk(e.shadowRoot)
          if (String(e.className).includes('ooltip')) found.push(text(e)) } }
        walk(document)
        return found.join(' ').split(/\\s+/).join(' ').trim()"""
    )


def test_a_curve_under_the_pointer_is_told(browser, sweep_run):
    report.report([sweep_run], sweep_run / "report.html")
    open_page(browser, sweep_run / "report.html")
    left, top, width, height = browser.execute_script(
        """
        const walk = root => [...root.querySelectorAll('*')].flatMap(e =>
          [...(e.tagName == 'CANVAS' ? [e] : []), ...(e.shadowRoot ? walk(e.shadowRoot) : [])])
        const box = walk(document).map(e => e.getBoundingClientRect()).find(b => b.width > 200)
        return [box.left, box.top, box.width, box.height]"""
    )
    places = [(0.5, i / 50) for i in range(4, 48)]
    tips = (tip_over(browser, int(left + width * u), int(top + height * v)) for u, v in places)
    told = next(tip for tip in tips if tip)
    match = re.search(r"eta_init [\d.]+, .*flow time: ([\d.e-]+) value: ([\d.e-]+)", told)
    assert match, told
    dataset = results.read_results(sweep_run)
    assert float(match[1]) in dataset["flow_time"].values
    assert [line for line in browser.get_log("browser") if line["level"] != "INFO"] == []


def test_panels_fit_a_narrow_window(browser, sweep_run):
    report.report([sweep_run], sweep_run / "report.html")
    size = {"height": 1000, "deviceScaleFactor": 1, "mobile": False}
    widths = "return [...document.querySelectorAll('.panels > div')].map(e => e.offsetWidth)"
    try:
        for width, columns in ((480, 1), (1300, 2)):
            emulated = size | {"width": width}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
            open_page(browser, sweep_run / "report.html")
            found = browser.execute_script(widths)
            assert len(found) == report.PANELS
            assert max(found) <= width / columns
            assert min(found) > 0.8 * width / columns
            beyond = browser.execute_script(
                "return document.documentElement.scrollWidth - window.innerWidth"
            )
            assert beyond <= 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_a_report_of_200_members_opens_within_2_seconds(browser, tmp_path):
    fields = fields_of(
        "sweep", n=12, d=6, m_w=4, m_v=8, num_test=16, num_seeds=10, num_records=100,
        eta_init=tuple(0.2 * 0.95**i for i in range(20)), eta_2=(0.05,),
    )  # fmt: skip
    experiment.run(spec.parse(fields), tmp_path / "run")
    report.report([tmp_path / "run"], tmp_path / "report.html")
    assert results.read_results(tmp_path / "run")["status"].size == 200
    took = min(open_page(browser, tmp_path / "report.html") for _ in range(3))
    assert took < 2
