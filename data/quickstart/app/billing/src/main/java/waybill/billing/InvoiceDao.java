package waybill.billing;

import java.sql.*;

public class InvoiceDao {
    private final Connection db;

    public InvoiceDao(Connection db) { this.db = db; }

    public ResultSet byNumber(String number) throws SQLException {
        Statement s = db.createStatement();
        return s.executeQuery("SELECT * FROM invoices WHERE number = '" + number + "'");
    }

    public ResultSet open(String customer, String order) throws SQLException {
        Statement s = db.createStatement();
        return s.executeQuery("SELECT * FROM invoices WHERE customer = '" + customer + "' ORDER BY " + order);
    }

    public int pay(String number, String amount) throws SQLException {
        return db.createStatement().executeUpdate("UPDATE invoices SET paid = " + amount + " WHERE number = '" + number + "'");
    }
}
