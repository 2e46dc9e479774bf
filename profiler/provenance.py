"""Where a profile's step times come from."""

CLOSED_FORM, KERNEL_TABLES, STEP_RECORDS, MEASURED = "closed form", "kernel tables", "step records", "measured"
PROVENANCE = {
    CLOSED_FORM: "step times come from a formula, not from a measurement",
    KERNEL_TABLES: "step times come from public kernel tables, not from a measurement",
    STEP_RECORDS: "step times are fitted to step records of an engine",
    MEASURED: "step times were measured on the engine",
}
