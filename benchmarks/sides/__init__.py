"""One file for each side: ours and the peers. A side's file has

    PACKAGES               whose versions the result names
    load(settings)         the model, as a function: (texts, batch size) -> float32 `(n, dimensions)`, unit norm
    export(settings)       optional: what has to be made once before the first load, in the folder `settings["exported"]`

and imports nothing of Sightline's but `ours`, because peers run in environments of their own. A batch size of 0 is the
side's own.
"""
