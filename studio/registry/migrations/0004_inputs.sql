-- What a variant was judged on: labelled samples, samples, recorded requests, or made-up inputs.
ALTER TABLE variants ADD COLUMN inputs VARCHAR;
