"""A grid as a heat map."""

from gmdistill.reports import figures, heat_maps


def cell(student, way, mean):
  rows = {"distilled": {"mean": mean, "std": 0.01, "n": 3}}
  return {"student": student, "way": way, "full": 0.8, "rows": rows}


def test_a_grid_is_a_figure_that_says_each_cell():
  grid = {
    "cells": [
      cell("own", "adamw 0.001, 200 steps", 0.72),
      cell("own", "own steps", 0.4),
      cell("textcnn", "adamw 0.001, 200 steps", 0.6),
    ]
  }
  figure = heat_maps.grid_figure(grid)
  (axes,) = figure.axes
  assert [x.get_text() for x in axes.texts] == ["90", "75", "50"]
  assert "own, own steps: 50" in figure.get_label()
  assert "<img" in figures.as_image(figure)
