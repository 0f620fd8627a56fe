"""The paper's ablation: its rows, their runs over seeds, and its tables."""
