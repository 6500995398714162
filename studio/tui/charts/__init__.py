"""Charts in text: pure functions from series to strips, a live widget, and charts that stand still.

`scale` makes ticks and labels, `raster` turns series into cells, `render` puts title, legend, axes and plot together,
`live` shows that in Textual. `still` draws with plotext, which it imports when it is asked to draw.
"""
