"""What a training loop needs and nobody wants to read inside it. Import the modules, not this package:

distributed    torchrun, and one process alike
checkpoint     safe loading, random states        optim          optimisers, the learning rate
saver          when and what to save, resuming    meter          sums kept on the device
run_directory  config, metrics, the lock          curves         curves.png
stopping       SIGTERM and SIGINT, politely
"""
