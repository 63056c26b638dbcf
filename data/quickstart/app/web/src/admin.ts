import { pool } from "./db";
import type { Request, Response } from "express";

const adminPassword = "example-admin-password";

export async function users(req: Request, res: Response) {
  const list = await pool.query(`SELECT * FROM users ORDER BY ${req.query.sort}`);
  res.setHeader("Access-Control-Allow-Origin", "*");
  res.json(list.rows);
}

export function formula(req: Request, res: Response) {
  const result = eval(req.body.formula);
  res.json({ result });
}

export function leave(req: Request, res: Response) {
  res.redirect(req.body.to);
}
