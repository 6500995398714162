"""Is a graph right, and is it worth having? Fidelity, measurements and the verdict on them.

Runs in workers: it opens ONNX Runtime sessions on graphs that nobody has vouched for yet.

    session   open a graph, read its signature
    inputs    sample inputs from an `.npz`, or drawn from the signature; rows into runs
    batching  are the rows of a batch equal to single runs?
    fidelity  how near are two sets of outputs, or two graphs?
    measure   latency, throughput, memory, load time
    verdict   what the gates make of it, in a sentence
    graph_info, machine   facts for manifests
"""
