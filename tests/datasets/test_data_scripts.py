"""The scripts that measure loading and draw noise do what their first lines say."""

from __future__ import annotations

import re

from helpers import run_script


def test_the_bench_of_loading_compares_both_ways_in_the_same_rounds(tmp_path):
    done = run_script("bench_loading.py", "--images", "500", "--rounds", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (one_by_one,) = re.findall(r"image by image +│ +([\d.]+) │ +([\d.]+) │", done.stdout)
    (in_memory,) = re.findall(r"in_memory=true +│ +([\d.]+) │ +([\d.]+) │", done.stdout)
    assert one_by_one[1] == "1.0"
    assert float(in_memory[0]) > 0


def test_the_matrices_of_the_noise_models_are_drawn_and_their_rates_printed(tmp_path):
    noises = ["--noise", "sym40", "--noise", "noise=sym40 noise.over=all"]
    done = run_script("noise_matrices.py", "matrices.png", "dataset=digits", *noises, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "matrices.png").read_bytes()[:4] == b"\x89PNG"
    rates = dict(re.findall(r"│ (sym40\S*(?: over=all)?) +│ +([\d.]+) │", done.stdout))
    assert float(rates["sym40"]) == 39.99  # 569 of 1,423
    assert 33 < float(rates["sym40, over=all"]) < 39


def test_a_data_set_without_true_labels_has_no_matrix(samples, tmp_path):
    arguments = ["m.png", "dataset=clothing1m", f"data_dir={samples}", "--noise", "given"]
    done = run_script("noise_matrices.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "clothing1m's clean labels are not known" in done.stderr
