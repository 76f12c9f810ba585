"""What sampling gains and costs in accuracy: every pooler on every dataset."""
