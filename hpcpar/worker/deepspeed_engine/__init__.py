"""DeepSpeed's engines behind the interface of strategies. Imports deepspeed: only `Strategy.build` may import it."""
