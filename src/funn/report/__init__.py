"""Tables, plots and the page, from what lies under outputs/."""
