import { pool } from "./db";

export function compile(rule: string) {
  return new Function(rule);
}

export function check(expression: string, parcel: unknown) {
  return eval(expression);
}

export async function rulesOf(tenant: string) {
  return (await pool.query(`SELECT rule FROM rules WHERE tenant = '${tenant}'`)).rows;
}
