import cors from "cors";
import express from "express";
import { pool } from "./db";

const app = express();
app.use(cors({origin: "*"}));

app.get("/parcels/:id", async (req, res) => {
  const found = await pool.query(`SELECT * FROM parcels WHERE id = '${req.params.id}'`);
  res.setHeader("Access-Control-Allow-Origin", "*");
  res.json(found.rows);
});

app.get("/continue", (req, res) => {
  res.redirect(req.query.next as string);
});

export { app };
