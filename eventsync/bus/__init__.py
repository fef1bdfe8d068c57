"""The wire: carries the ids of events from the relay to the consumers, over RabbitMQ or within one process."""
