"""Grafana's dashboards of Russet, and what provisions them."""
