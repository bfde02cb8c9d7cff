"""The script plain_ddp.py with one more line: it tells hpcpar of each step, and is timed from inside.

Outside of a job of hpcpar that line does nothing:

    hpcpar submit --cluster local --nodes 1 2 -- python examples/logged_ddp.py --batch {micro_batch} --steps {steps}
"""

import argparse

import torch
from torch import distributed, nn

import hpcpar

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--batch", type=int, default=64, help="samples a rank and step")
parser.add_argument("--steps", type=int, default=100)
arguments = parser.parse_args()

distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
numbers = torch.Generator().manual_seed(rank)

for step in range(1, arguments.steps + 1):
    inputs = torch.randn(arguments.batch, 32, generator=numbers)
    loss = nn.functional.mse_loss(model(inputs), inputs.square().mean(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    hpcpar.log(loss=loss.item(), samples=arguments.batch)
    if rank == 0 and step % 50 == 0:
        print(f"step {step}: loss {loss.item():.4f}", flush=True)

distributed.destroy_process_group()
